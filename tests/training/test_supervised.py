"""Supervised training led by validation mAP: which weights stay, and what a missing or NaN metric may not do."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.training import supervised

SCENES = DigitScenes("train", num_scenes=6)


def config(**changes: int | float | bool) -> supervised.Config:
    return replace(supervised.Config(num_steps=4, batch_size=2, validate_every=1), **changes)  # type: ignore[arg-type]


def trained(aps: list[float | None], **changes: int | float | bool) -> tuple[float, Tensor, list[Tensor]]:
    """The best AP, the weights that stayed, and the weights at each validation, which tells the given APs."""
    torch.manual_seed(0)
    detector = build_detector("tiny", num_classes=len(CLASSES), image_size=64)
    seen: list[Tensor] = []
    told = iter(aps)

    def validate() -> float | None:
        seen.append(weight(detector).clone())
        return next(told)

    best = supervised.train(
        detector, SCENES, config(**changes), generator=torch.Generator().manual_seed(0), validate=validate
    )
    return best, weight(detector), seen


def weight(detector: Detector) -> Tensor:
    tensor: Tensor = detector.plain().roi_heads.box_predictor.cls_score.weight.detach()
    return tensor


@pytest.mark.parametrize(
    ("aps", "kept", "best"),
    [
        ([0.1, 0.3, 0.2, 0.1], 1, 0.3),
        ([0.1, 0.3, 0.3, 0.2], 1, 0.3),  # a tie keeps the earlier
        ([0.1, math.nan, 0.2, 0.1], 2, 0.2),
        ([None, None, 0.1, None], 2, 0.1),
        ([math.nan, 0.1, None, math.nan], 1, 0.1),
        ([0.0, 0.0, 0.0, 0.5], 3, 0.5),  # late
    ],
)
def test_the_weights_of_the_best_validation_stay(aps: list[float | None], kept: int, best: float) -> None:
    found, weights, seen = trained(aps)
    assert found == best
    assert len(seen) == 4
    assert torch.equal(weights, seen[kept])
    assert not any(torch.equal(weights, other) for step, other in enumerate(seen) if step != kept)


def test_without_any_metric_the_last_weights_stay() -> None:
    best, weights, seen = trained([None, math.nan, None, None])
    assert best == -math.inf
    assert torch.equal(weights, seen[-1])


def test_it_stops_when_patience_is_used_up_and_progress_below_min_delta_is_none() -> None:
    assert len(trained([0.1, 0.2, 0.15, 0.15], patience=1)[2]) == 3
    best, weights, seen = trained([0.1, 0.105, 0.108, 0.2], patience=2, min_delta=0.01)
    assert len(seen) == 3
    assert best == 0.1
    assert torch.equal(weights, seen[0])


def test_a_loss_that_is_not_finite_names_the_step_and_the_images() -> None:
    with pytest.raises(ValueError, match=r"finite.*step \d, images \[\d, \d\]"):
        trained([0.1] * 4, learning_rate=1e30)


def test_every_image_comes_once_before_any_comes_again() -> None:
    shown = supervised.batches(SCENES, config(num_steps=6), torch.Generator().manual_seed(0))
    ids = [sample.target.image_id for samples in shown for sample in samples]
    assert sorted(ids[:6]) == sorted(ids[6:]) == [1, 2, 3, 4, 5, 6]
    assert ids[:6] != ids[6:]


def test_reading_ahead_in_a_process_of_its_own_changes_nothing() -> None:
    def shown(**changes: int) -> list[int]:
        batches = supervised.batches(SCENES, config(**changes), torch.Generator().manual_seed(0))
        return [sample.target.image_id for samples in batches for sample in samples]

    assert shown(num_workers=1) == shown()


def test_a_mirrored_sample_holds_the_same_things_in_its_boxes() -> None:
    sample = SCENES[0]
    mirrored = supervised.flipped(sample)
    for box, other in zip(sample.target.boxes.int().tolist(), mirrored.target.boxes.int().tolist(), strict=True):
        patch = sample.image[:, box[1] : box[3], box[0] : box[2]]
        assert torch.equal(patch.flip(-1), mirrored.image[:, other[1] : other[3], other[0] : other[2]])
    again = supervised.flipped(mirrored)
    torch.testing.assert_close(again.target.boxes, sample.target.boxes)
    assert torch.equal(again.image, sample.image)


def test_crowds_are_not_trained_on() -> None:
    sample = SCENES[0]
    crowd = torch.zeros_like(sample.target.iscrowd)
    crowd[1] = True
    marked = replace(sample, target=replace(sample.target, iscrowd=crowd))
    kept = supervised.labelled(marked, torch.device("cpu"))
    assert len(kept["labels"]) == len(crowd) - 1
    assert torch.equal(kept["boxes"][1], sample.target.boxes[2])
