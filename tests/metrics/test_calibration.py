"""Whether scores mean what they say, and the monotone map that mends them."""

import math

import numpy as np
import pytest
import torch

from rl_det.metrics.calibration import correct_detections, detection_calibration_error, fit_recalibration, scored
from rl_det.types import Detections, Target

SQUARE, SHIFTED, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (2.0, 0.0, 12.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def target(*boxes: tuple[float, ...], labels: tuple[int, ...] = (), crowds: tuple[bool, ...] = ()) -> Target:
    count = len(boxes)
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or (1,) * count, dtype=torch.int64),
        area=torch.full((count,), 100.0),
        iscrowd=torch.tensor(crowds or (False,) * count, dtype=torch.bool),
        image_id=0,
    )


def found(*boxes: tuple[float, ...], scores: tuple[float, ...], labels: tuple[int, ...] = ()) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or (1,) * len(boxes), dtype=torch.int64),
        scores=torch.tensor(scores),
    )


def test_of_two_detections_of_one_object_the_better_scored_is_correct() -> None:
    correct, counted = correct_detections(found(SHIFTED, SQUARE, scores=(0.9, 0.8)), target(SQUARE))
    assert correct.tolist() == [True, False]
    assert counted.all()
    correct, _ = correct_detections(found(SHIFTED, SQUARE, scores=(0.7, 0.8)), target(SQUARE))
    assert correct.tolist() == [False, True]


def test_the_class_must_be_right_and_the_overlap_half() -> None:
    correct, _ = correct_detections(found(SQUARE, scores=(0.9,), labels=(2,)), target(SQUARE))
    assert not correct.any()
    far = (6.0, 0.0, 16.0, 10.0)
    assert not correct_detections(found(far, scores=(0.9,)), target(SQUARE))[0].any()


def test_what_only_a_crowd_explains_does_not_count() -> None:
    both = target(SQUARE, ELSEWHERE, crowds=(False, True))
    correct, counted = correct_detections(found(SQUARE, ELSEWHERE, scores=(0.5, 0.9)), both)
    assert correct.tolist() == [True, False]
    assert counted.tolist() == [True, False]
    scores, hits = scored([found(SQUARE, ELSEWHERE, scores=(0.5, 0.9))], [both])
    assert scores.tolist() == [0.5]
    assert hits.tolist() == [True]


def test_images_without_detections_or_objects_are_nothing_special() -> None:
    scores, hits = scored([found(scores=()), found(SQUARE, scores=(0.5,))], [target(SQUARE), target()])
    assert scores.tolist() == [0.5]
    assert hits.tolist() == [False]
    assert [len(part) for part in scored([], [])] == [0, 0]


def test_the_calibration_error_is_the_mean_gap_of_precision_and_score() -> None:
    scores, correct = np.array([0.9, 0.9, 0.9, 0.9, 0.11]), np.array([True, True, False, False, False])
    assert detection_calibration_error(scores, correct) == pytest.approx((4 * 0.4 + 0.11) / 5)
    assert detection_calibration_error(np.array([1.0]), np.array([True])) == 0.0
    assert math.isnan(detection_calibration_error(np.zeros(0), np.zeros(0, dtype=bool)))


def test_recalibration_recovers_the_map_that_was_bent() -> None:
    rng = np.random.default_rng(0)
    true_logits = rng.normal(size=20_000) * 2
    correct = rng.uniform(size=20_000) < 1 / (1 + np.exp(-true_logits))
    bent = 1 / (1 + np.exp(-(true_logits * 2 - 1)))
    scale, shift = fit_recalibration(bent, correct)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(0.5, abs=0.05)
    mended = 1 / (1 + np.exp(-(np.log(bent / (1 - bent)) * scale + shift)))
    assert detection_calibration_error(mended, correct) < 0.3 * detection_calibration_error(bent, correct)


@pytest.mark.parametrize("correct", [[True] * 4, [False] * 4, [True, True, False, False]])
def test_where_nothing_can_be_learned_or_the_order_is_upside_down_the_map_is_the_identity(correct: list[bool]) -> None:
    assert fit_recalibration(np.array([0.1, 0.2, 0.8, 0.9]), np.array(correct)) == (1.0, 0.0)
