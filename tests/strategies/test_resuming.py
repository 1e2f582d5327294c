"""A training that is killed and goes on ends exactly as one that was never stopped, or says why it cannot go on."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rl_det.data.augment import Augmentations
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.training import supervised

SCENES = DigitScenes("train", num_scenes=6)
PLAIN = supervised.Config(num_steps=8, batch_size=2, validate_every=2)
EVERYTHING = replace(
    PLAIN,
    ema=0.9,
    precision="mixed",
    schedule="step",
    flip=True,
    augmentations=Augmentations(scale=(0.7, 1.5), crop=True, photometric=True),
    warm_up=1,
    min_delta=0.01,
    num_workers=1,
)


class Outcome:
    """All by which two trainings can differ."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.best = math.nan
        self.weights: dict[str, Tensor] = {}
        self.random: tuple[Tensor, ...] = ()


def outcome(
    config: supervised.Config,
    aps: list[float | None],
    checkpoint: Path | None,
    *,
    seed: int = 0,
    kill_at: int = -1,
    num_classes: int = len(CLASSES),
    scenes: DigitScenes = SCENES,
) -> Outcome:
    """Train a detector to the end, or until it is killed."""
    torch.manual_seed(seed)
    detector = build_detector("tiny", num_classes=num_classes, input_size=64)
    found, told, generator = Outcome(), iter(aps), torch.Generator().manual_seed(seed)

    def validate() -> dict[str, float]:
        ap = next(told)
        return {} if ap is None else {"AP": ap}

    def on_step(step: int, metrics: dict[str, float]) -> None:
        found.lines.append((step, json.dumps(metrics)))
        if step == kill_at:
            raise KeyboardInterrupt

    try:
        found.best = supervised.train(
            detector, scenes, config, generator=generator, validate=validate, on_step=on_step, checkpoint=checkpoint
        )
    except KeyboardInterrupt:
        assert kill_at > 0
    found.weights = detector.plain().state_dict()
    found.random = generator.get_state(), torch.get_rng_state()
    return found


@pytest.mark.parametrize(
    ("config", "aps", "kill_at", "kept_at"),
    [
        (PLAIN, [0.1, 0.3, 0.2, 0.1], 5, 4),  # the best is in the checkpoint
        (PLAIN, [0.1, 0.2, 0.3, 0.4], 5, 4),  # the best is still to come
        (PLAIN, [0.1, 0.3, 0.2, 0.1], 1, 0),  # nothing is kept yet
        (PLAIN, [0.1, 0.3, 0.2, 0.1], 4, 2),  # killed before the file was written
        (EVERYTHING, [0.1, 0.3, 0.2, 0.1], 5, 4),
        (EVERYTHING, [0.1, 0.2, math.nan, 0.2], 7, 6),  # a tie with what the checkpoint has
        (EVERYTHING, [None, 0.1, 0.2, 0.2], 3, 2),
    ],
)
def test_killed_and_resumed_it_ends_as_if_it_had_never_been_stopped(
    tmp_path: Path, config: supervised.Config, aps: list[float | None], kill_at: int, kept_at: int
) -> None:
    whole = outcome(config, aps, None)
    killed = outcome(config, aps, tmp_path / "training.pt", kill_at=kill_at)
    resumed = outcome(config, aps[kept_at // 2 :], tmp_path / "training.pt")
    assert killed.lines == whole.lines[:kill_at]
    assert resumed.lines == whole.lines[kept_at:]
    assert resumed.best == whole.best
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in whole.weights.items())
    assert all(map(torch.equal, resumed.random, whole.random))
    assert list(tmp_path.iterdir()) == [tmp_path / "training.pt"]


def test_patience_is_remembered_and_what_has_ended_does_not_begin_again(tmp_path: Path) -> None:
    config = replace(PLAIN, patience=2)
    whole = outcome(config, [0.3, 0.2, 0.1], None)
    outcome(config, [0.3, 0.2], tmp_path / "training.pt", kill_at=5)
    resumed = outcome(config, [0.1], tmp_path / "training.pt")
    assert [step for step, _ in resumed.lines] == [5, 6]
    again = outcome(config, [], tmp_path / "training.pt")
    assert again.lines == []
    for other in (resumed, again):
        assert other.best == whole.best == 0.3
        assert all(torch.equal(other.weights[name], tensor) for name, tensor in whole.weights.items())
    finished = outcome(PLAIN, [0.1, 0.2, 0.3, 0.4], tmp_path / "to_the_end.pt")
    again = outcome(PLAIN, [], tmp_path / "to_the_end.pt")
    assert again.lines == []
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in finished.weights.items())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("training") / "training.pt"
    outcome(PLAIN, [0.1, 0.2], file, kill_at=3)
    return file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": replace(PLAIN, learning_rate=1e-3)}, r"learning_rate was 0\.002 and is 0\.001"),
        ({"config": replace(PLAIN, ema=0.9)}, r"must be the state of a training; it lacks average"),
        ({"scenes": DigitScenes("train", num_scenes=7)}, r"num_images was 6 and is 7"),
        ({"num_classes": 3}, r"roi_heads\.box_predictor\.cls_score\.weight must have shape"),
        ({"seed": 1}, r"another seed"),
    ],
)
def test_a_checkpoint_of_another_training_is_named_with_what_differs(
    checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        outcome(**({"config": PLAIN, "aps": [0.1] * 4, "checkpoint": checkpoint} | changes))
    assert str(checkpoint) in str(refused.value)


def test_the_number_of_processes_that_read_ahead_is_free(checkpoint: Path, tmp_path: Path) -> None:
    copied = tmp_path / "training.pt"
    copied.write_bytes(checkpoint.read_bytes())
    assert outcome(replace(PLAIN, num_workers=1), [0.1] * 3, copied).lines[0][0] == 3


@pytest.mark.parametrize("content", [b"", b"weights, please"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "training.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"training\.pt: must be a readable checkpoint.*start afresh"):
        outcome(PLAIN, [0.1], file)


def test_other_weights_are_no_state_of_a_training(tmp_path: Path) -> None:
    file = tmp_path / "detector.pt"
    torch.save({"weight": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"detector\.pt: must be the state of a training; it lacks best, identity"):
        outcome(PLAIN, [0.1], file)
