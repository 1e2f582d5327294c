"""All the figures of a report at once."""

import math

import pytest
import torch

from rl_det.metrics.evaluation import MONITORS, check_monitor, evaluate, quick_evaluate
from rl_det.types import Detections, Target


def test_it_joins_coco_calibration_and_the_operating_point() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    ones = torch.ones(2, dtype=torch.int64)
    target = Target(
        boxes=boxes[:1], labels=ones[:1], area=torch.tensor([100.0]), iscrowd=torch.tensor([False]), image_id=0
    )
    figures = evaluate([Detections(boxes=boxes, labels=ones, scores=torch.tensor([0.9, 0.2]))], [target], num_classes=1)
    assert figures["AP"] == pytest.approx(1.0)
    assert figures["F1"] == pytest.approx(1.0)
    assert figures["F1_threshold"] == pytest.approx(0.9)
    assert figures["calibration_error"] == pytest.approx((0.1 + 0.2) / 2, abs=1e-6)
    assert figures["moLRP"] == pytest.approx(0.0)
    assert math.isnan(figures["score_iou_correlation"])  # one correct detection alone
    quick = quick_evaluate(
        [Detections(boxes=boxes, labels=ones, scores=torch.tensor([0.9, 0.2]))], [target], num_classes=1
    )
    assert list(quick) == list(figures)
    assert quick == pytest.approx(figures, abs=1e-12, nan_ok=True)
    assert set(MONITORS) == set(figures) - {"F1_threshold"}


def test_an_unknown_figure_is_refused_with_the_known_ones() -> None:
    check_monitor("AP50")
    with pytest.raises(ValueError, match=r"AP, AP50, .*got 'ap'"):
        check_monitor("ap")
