"""pycocotools' twelve figures: COCO's own reference, and what happens where there is nothing to count."""

import math

import pytest
import torch
from ap.coco_reference import PUBLISHED, REFERENCE, reference

from rl_det.ap.data_set import FIGURES
from rl_det.metrics.coco import coco_summary
from rl_det.types import Detections, Target


def target(*boxes: tuple[float, float, float, float], crowd: bool = False, image_id: int = 0) -> Target:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Target(
        boxes=tensor,
        labels=torch.ones(len(boxes), dtype=torch.int64),
        area=(tensor[:, 2:] - tensor[:, :2]).prod(1),
        iscrowd=torch.full((len(boxes),), crowd),
        image_id=image_id,
    )


def found(*boxes: tuple[float, float, float, float], scores: tuple[float, ...] = ()) -> Detections:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    given = scores or tuple(1.0 - 0.1 * rank for rank in range(len(boxes)))
    return Detections(boxes=tensor, labels=torch.ones(len(boxes), dtype=torch.int64), scores=torch.tensor(given))


SQUARE = (0.0, 0.0, 10.0, 10.0)
ELSEWHERE = (50.0, 50.0, 60.0, 60.0)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"COCO's reference is not at {REFERENCE}")
def test_cocos_own_reference_is_met_in_all_twelve_figures() -> None:
    detections, targets, num_classes = reference()
    summary = coco_summary(detections, targets, num_classes=num_classes)
    assert tuple(round(summary[name], 3) for name in FIGURES) == PUBLISHED


def test_a_perfect_detector_has_one_and_a_blind_one_zero() -> None:
    assert coco_summary([found(SQUARE)], [target(SQUARE)], num_classes=1)["AP"] == pytest.approx(1.0)
    assert coco_summary([found()], [target(SQUARE)], num_classes=1)["AP"] == 0.0


def test_figures_without_a_true_box_of_their_size_are_nan() -> None:
    summary = coco_summary([found(SQUARE)], [target(SQUARE)], num_classes=1)
    assert summary["APs"] == pytest.approx(1.0)
    assert math.isnan(summary["APm"])
    assert math.isnan(summary["APl"])
    assert math.isnan(coco_summary([found(SQUARE)], [target()], num_classes=1)["AP"])


def test_what_a_crowd_absorbs_does_not_count() -> None:
    crowd = target(ELSEWHERE, crowd=True)
    both = Target(
        boxes=torch.cat([target(SQUARE).boxes, crowd.boxes]),
        labels=torch.ones(2, dtype=torch.int64),
        area=torch.full((2,), 100.0),
        iscrowd=torch.tensor([False, True]),
        image_id=0,
    )
    detections = [found(ELSEWHERE, SQUARE)]
    assert coco_summary(detections, [both], num_classes=1)["AP"] == pytest.approx(1.0)
    assert coco_summary(detections, [target(SQUARE)], num_classes=1)["AP"] < 0.6


def test_images_of_one_id_are_two_images() -> None:
    targets = [target(SQUARE, image_id=7), target(ELSEWHERE, image_id=7)]
    assert coco_summary([found(SQUARE), found(ELSEWHERE)], targets, num_classes=1)["AP"] == pytest.approx(1.0)
    assert coco_summary([found(ELSEWHERE), found(SQUARE)], targets, num_classes=1)["AP"] == 0.0


def test_every_image_needs_its_detections() -> None:
    with pytest.raises(ValueError, match="1 for 2 images"):
        coco_summary([found(SQUARE)], [target(SQUARE), target(SQUARE)], num_classes=1)
