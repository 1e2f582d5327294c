"""The shipped detector on a few digit scenes, a task on them, and a record of a run: what the strategies' tests share."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.protocol import Part
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.strategies.strategy import FromLabels, Task
from rl_det.training.loop import Callback, FitRun, fit

NUM_SCENES = 8


class Told(Callback):
    """All that the loop says of a run: update and metrics, line by line."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        self.lines.append((run.update, metrics))


def shipped(input_size: int | None = None, part: Part = "head") -> Detector:
    return build_detector("tiny", num_classes=len(CLASSES), input_size=input_size, weights=SHIPPED_WEIGHTS, part=part)


def train_data(detector: Detector | None = None) -> EncodedDataset:
    return encode_dataset(detector or shipped(), DigitScenes("train", num_scenes=NUM_SCENES))


def a_task(
    data: EncodedDataset,
    *,
    num_steps: int = 4,
    batch_size: int = 4,
    validate_every: int = 2,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    validation_ap: Callable[[], float] | None = None,
    goes_on: bool = False,
) -> Task:
    """Encodings of the same images for training and validation; the validation may be told beforehand."""
    scenes = DigitScenes("train", num_scenes=NUM_SCENES)

    def encode(split: Literal["train", "val"]) -> EncodedDataset:
        return data

    task = Task(
        train_images=scenes,
        val_images=scenes,
        encode=encode,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=1e-3,
        validate_every=validate_every,
        validated_candidates=32,
        evaluated_candidates=48,
        fit_evaluations=44,
        from_labels=FromLabels(
            num_steps=num_steps,
            batch_size=2,
            learning_rate=1e-3,
            flip=False,
            num_workers=0,
            validate_every=validate_every,
        ),
        seed=seed,
        fit=lambda learner, config: fit(learner, config, name="run", callbacks=callbacks),
        goes_on=goes_on,
    )
    if validation_ap is not None:
        ap: Any = validation_ap
        task.validation_ap = lambda policy: ap()  # type: ignore[method-assign]
    return task
