"""Command-line arguments -> the data, the warm start and the budget that an experiment begins with."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from rl_det.data import Dataset, Split
from rl_det.data.coco import open_splits
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS, tiny
from rl_det.storage.weights import load_state
from rl_det.training import continued, supervised
from rl_det.training.warm_start import warm_start

PolicyName = Literal["rescore", "select", "context", "adjust", "voting"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The flags that every experiment has."""

    data: Path | None = None
    """A COCO-format folder (images/, train.json, val.json, test.json); left out: digit scenes."""
    detector: str = "tiny"
    """tiny, or torchvision's name of a Faster R-CNN."""
    weights: str | None = None
    """A file of weights, a name of torchvision's, or none (train afresh); left out: the best that is at hand."""
    policy: PolicyName = "voting"
    """What acts: the head by rescoring, by selecting, or by rescoring and moving boxes (adjust), or with a module the head by
    rescoring (context) or by rescoring and moving boxes (voting)."""
    reward: str = "pool_ap"
    """What an action is paid in: pool_ap (the data set's mAP), or another name of `rl_det.rewards.REWARDS`."""
    seed: int = 0
    """Everything that fine-tuning draws is drawn from it."""
    budget: Literal["smoke", "short", "full"] = "full"
    """How long: within a minute, five minutes or a quarter of an hour on two CPU cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""
    out: Path | None = None
    """The run's folder; left out: one in runs/, named after the experiment and its flags."""

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda needs a CUDA device, and torch sees none; use --device auto or cpu")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an experiment works on."""

    splits: dict[Split, Dataset]
    detector: Detector
    device: torch.device


NUM_SCENES: dict[str, dict[Split, int]] = {
    "smoke": {"train": 64, "val": 32, "test": 32},
    "short": {"train": 3000, "val": 300, "test": 500},
    "full": {"train": 4000, "val": 500, "test": 1000},
}
FRESH_SEED = 2
"""The digit scenes' seed for tuning; the warm start trains on those of another."""
DIGITS_WARM_START = supervised.Config(num_workers=1)
DIGITS_HEAD = continued.Config(num_steps=800, learning_rate=2e-3, validate_every=200)
FOLDER_WARM_START = supervised.Config(num_steps=600, batch_size=8, learning_rate=1e-3, flip=True, validate_every=100)
FOLDER_HEAD = continued.Config(num_steps=200, batch_size=24, learning_rate=5e-4, validate_every=50)
FOLDER_INPUT_SIZE = 192
"""The shorter side to which tiny resizes a folder's images, in pixels."""


def open_task(arguments: Arguments, *, trained_first: bool = True) -> Task:
    """The data and the warm start; ValueError, and nothing trained or written, where an argument is no good.

    Weights "none" mean a warm start trained from random ones; or, if nothing is to be trained first, the random ones.
    """
    device = torch.device("cuda" if arguments.device != "cpu" and torch.cuda.is_available() else "cpu")
    splits = digit_splits(arguments.budget) if arguments.data is None else folder_splits(arguments.data)
    afresh = arguments.weights == "none" and not trained_first
    detector = built(arguments, splits, "none", device) if afresh else pretrained(arguments, splits, device)
    return Task(splits=splits, detector=detector, device=device)


def digit_splits(budget: str) -> dict[Split, Dataset]:
    """Digit scenes, as many as the budget has time for."""
    return {
        split: DigitScenes(split, num_scenes=count, seed=FRESH_SEED if split == "train" else 0)
        for split, count in NUM_SCENES[budget].items()
    }


def folder_splits(folder: Path) -> dict[Split, Dataset]:
    """The three splits of a COCO-format folder; the test images are decoded once, as hours later is late to find one broken."""
    opened = open_splits(folder)
    with Bar("check test", len(opened.test)) as bar:
        for index in range(len(opened.test)):
            opened.test[index]
            bar.advance(1)
    return {"train": opened.train, "val": opened.val, "test": opened.test}


def pretrained(arguments: Arguments, splits: dict[Split, Dataset], device: torch.device) -> Detector:
    """The warm start: weights that are given or shipped, or a supervised training that the cache remembers."""
    name, weights = arguments.detector, arguments.weights
    on_digits = arguments.data is None
    if weights is None and name == "tiny" and on_digits:
        weights = str(SHIPPED_WEIGHTS)
    input_size = input_size_of(arguments)
    detector = built(arguments, splits, weights, device)
    if weights not in (None, "none"):
        return detector
    if name == "tiny" and weights is None:
        start_from_digits(detector)
    dataset: Dataset = DigitScenes("train", num_scenes=24_000, seed=1) if on_digits else splits["train"]
    config = DIGITS_WARM_START if on_digits else FOLDER_WARM_START
    return train_warm_start(detector, dataset, splits["val"], config, head_config(arguments), identity={
        "detector": name, "weights": weights, "image_size": input_size, "seed": 0,  # a cached warm start is found by this key
        "data": str(arguments.data and arguments.data.resolve()), "classes": list(dataset.classes), "images": len(dataset),
    })  # fmt: skip


def built(arguments: Arguments, splits: dict[Split, Dataset], weights: str | None, device: torch.device) -> Detector:
    """The detector with these weights, or with random ones, always the same; the global seed is set."""
    torch.manual_seed(0)
    num_classes, size = len(splits["train"].classes), input_size_of(arguments)
    detector = build_detector(arguments.detector, num_classes=num_classes, input_size=size, weights=weights)
    detector.plain().to(device)
    return detector


def input_size_of(arguments: Arguments) -> int | None:
    """The shorter side to which the detector resizes images, where it is not its own."""
    return FOLDER_INPUT_SIZE if arguments.detector == "tiny" and arguments.data is not None else None


def head_config(arguments: Arguments) -> continued.Config:
    """How the head alone is trained on this data."""
    return DIGITS_HEAD if arguments.data is None else FOLDER_HEAD


def start_from_digits(detector: Detector) -> None:
    """All of the shipped weights but the box predictor's, which knows other classes."""
    digits = tiny(len(CLASSES))
    load_state(digits, SHIPPED_WEIGHTS)
    state = {name: value for name, value in digits.state_dict().items() if "box_predictor" not in name}
    detector.plain().load_state_dict(state, strict=False)


def train_warm_start(
    detector: Detector,
    dataset: Dataset,
    val: Dataset,
    config: supervised.Config,
    head_config: continued.Config,
    *,
    identity: dict[str, Any],
) -> Detector:
    """Supervised training under the lead of validation AP, with a progress bar; the global seed is set."""
    torch.manual_seed(0)
    with Bar("warm start", config.num_steps + head_config.num_steps) as bar:
        warm_start(
            detector,
            dataset,
            val,
            config,
            head_config,
            identity=identity,
            generator=torch.Generator().manual_seed(0),
            on_step=bar.update,
        )
    return detector


Log = Callable[[int, str, dict[str, float]], None]


class Bar:
    """A progress bar with the time left and the latest validation mAP."""

    def __init__(self, name: str, total: int, log: Log = lambda step, stage, metrics: None) -> None:
        self.name, self.log, self.bar = name, log, tqdm(total=total, desc=name, dynamic_ncols=True)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, count: int) -> None:
        """So many further."""
        self.bar.update(count)

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """At this step, with these metrics."""
        if "val_AP" in metrics:
            self.bar.set_postfix_str(f"val mAP {100 * metrics['val_AP']:.2f}")
        self.bar.update(step - self.bar.n)
        self.log(step, self.name, metrics)


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """A user's mistake ends the program with one line and exit code 2; anything else keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
