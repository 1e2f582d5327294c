"""Pictures of episodes: which detections are drawn, and as what."""

from typing import Any

import numpy as np
import pytest
import torch
from contract.environments import RESCORE, SELECT, TUNE, make_vector
from rl_det_envs import detector_environment
from rl_det_envs.drawing import FAINT, Change

from rl_det.ap.batch import DetectionBatch
from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset

BOXES = np.arange(24, dtype=np.float32).reshape(1, 6, 4)


def detections(
    probabilities: list[float], mask: list[bool], *, logits: bool, moved: int | None = None
) -> DetectionBatch:
    p, boxes = np.array([probabilities]), BOXES.copy()
    if moved is not None:
        boxes[0, moved] += 1
    return DetectionBatch(
        boxes=boxes,
        labels=np.ones((1, 6), dtype=np.int64),
        scores=np.log(p / (1 - p)) if logits else p,
        mask=np.array([mask]),
    )


@pytest.mark.parametrize("logits", [True, False])
def test_what_was_seen_or_is_seen_now_is_kept_dropped_or_changed(logits: bool) -> None:
    before = detections([0.9, 0.8, 0.7, 0.01, 0.01, 0.6], [True] * 6, logits=logits)
    after = detections([0.9, 0.8, 0.01, 0.3, 0.01, 0.6], [True, False, True, True, True, True], logits=logits, moved=5)
    change = Change.between(before, after, 0, logits=logits)
    assert change.kept.tolist() == BOXES[0, :1].tolist()
    assert change.dropped.tolist() == BOXES[0, 1:2].tolist()
    assert change.changed.tolist() == [*BOXES[0, 2:4].tolist(), (BOXES[0, 5] + 1).tolist()]  # down, up, and moved


def drawn_by(envs: Any, monkeypatch: pytest.MonkeyPatch) -> Change:
    """What the only picture shows."""
    changes: list[Change] = []

    def draw(sample: Any, change: Change, reward: float | None) -> np.ndarray:
        changes.append(change)
        return np.zeros((1, 1, 3), dtype=np.uint8)

    monkeypatch.setattr(detector_environment, "draw", draw)
    envs.render()
    (change,) = changes
    return change


@pytest.mark.parametrize("env_id", [TUNE, RESCORE, SELECT])
def test_before_a_step_all_that_is_not_faint_is_kept(
    env_id: str, detector: Detector, data: EncodedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = make_vector(env_id, 1, detector=detector, dataset=data, num_candidates=300, render_mode="rgb_array")
    envs.reset(seed=0)
    change = drawn_by(envs, monkeypatch)
    before, _ = envs.drawn()
    scores = torch.from_numpy(before.scores[0])
    probabilities = scores if env_id == TUNE else scores.sigmoid()
    bright = torch.from_numpy(before.mask[0]) & (probabilities >= FAINT)
    assert 0 < bright.sum() < before.mask.sum()
    assert (len(change.kept), len(change.dropped), len(change.changed)) == (int(bright.sum()), 0, 0)


def test_what_is_pushed_down_is_drawn_as_changed(
    detector: Detector, data: EncodedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs = make_vector(RESCORE, 1, detector=detector, dataset=data, num_candidates=300, render_mode="rgb_array")
    envs.reset(seed=0)
    seen = len(drawn_by(envs, monkeypatch).kept)
    envs.step(-torch.ones(1, 300))
    change = drawn_by(envs, monkeypatch)
    assert (len(change.kept), len(change.dropped)) == (0, 0)
    assert len(change.changed) >= seen > 0
