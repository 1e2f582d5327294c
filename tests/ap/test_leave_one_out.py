"""What each detection is worth, against taking it out and evaluating again."""

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_det.ap.average_precision import image_ap
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.leave_one_out import leave_one_out
from rl_det.ap.matching import match
from rl_det.ap.options import COCO, CocoOptions

OPTIONS = {
    "coco": COCO,
    "one threshold": CocoOptions(iou_thresholds=(0.5,)),
    "middle-sized objects": CocoOptions(area_range=(100.0, 1000.0)),
    "three detections": CocoOptions(max_detections=3),
    "two of middle size": CocoOptions(max_detections=2, area_range=(100.0, 1000.0)),
}


def image_aps(detections: DetectionBatch, truths: TruthBatch, options: CocoOptions) -> np.ndarray:
    return image_ap(match(detections, truths, num_classes=NUM_CLASSES, options=options), options)[0]


def taken_out(detections: DetectionBatch, truths: TruthBatch, options: CocoOptions) -> np.ndarray:
    """[B, N]: AP as it is minus AP without the detection, by evaluating every image once for each of its detections."""
    worth = np.zeros(detections.mask.shape)
    whole = image_aps(detections, truths, options)
    for index in range(detections.mask.shape[1]):
        mask = detections.mask.copy()
        mask[:, index] = False
        without = DetectionBatch(**{**vars(detections), "mask": mask})
        worth[:, index] = np.nan_to_num(whole - image_aps(without, truths, options))
    return worth


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(25))
def test_leaving_one_out_is_taking_it_out_and_evaluating_again(seed: int, name: str) -> None:
    detections, truths = hostile(
        seed, num_images=10, num_detections=[8, 24, 60][seed % 3], num_truths=[3, 12][seed % 2]
    )
    aps, worth = leave_one_out(detections, truths, num_classes=NUM_CLASSES, options=OPTIONS[name])
    np.testing.assert_allclose(aps, image_aps(detections, truths, OPTIONS[name]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(worth, taken_out(detections, truths, OPTIONS[name]), rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_many_detections_of_one_object_stand_in_for_each_other(seed: int) -> None:
    """Long vacancy chains: one class, few true boxes that overlap, and many detections near all of them."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 6, (6, 5, 2))
    true_boxes = np.concatenate([corner, corner + rng.integers(18, 24, (6, 5, 2))], -1).astype(np.float32)
    corner = rng.integers(0, 6, (6, 30, 2))
    boxes = np.concatenate([corner, corner + rng.integers(18, 24, (6, 30, 2))], -1).astype(np.float32)
    detections = DetectionBatch(
        boxes=boxes, labels=np.ones((6, 30), int), scores=rng.integers(0, 9, (6, 30)) / 8, mask=np.ones((6, 30), bool)
    )
    truths = TruthBatch(
        boxes=true_boxes, labels=np.ones((6, 5), int), area=rng.uniform(0, 800, (6, 5)),
        iscrowd=rng.uniform(size=(6, 5)) < 0.2, mask=np.ones((6, 5), bool),
    )  # fmt: skip
    options = CocoOptions(area_range=(200.0, 1e5), max_detections=20)
    _, worth = leave_one_out(detections, truths, num_classes=1, options=options)
    np.testing.assert_allclose(worth, taken_out(detections, truths, options), rtol=0, atol=1e-12)


def test_a_lone_false_positive_costs_and_a_lone_true_positive_is_worth_all() -> None:
    boxes = np.array([[[50.0, 50, 60, 60], [0, 0, 10, 10], [0, 0, 0, 0]]])
    detections = DetectionBatch(
        boxes=boxes,
        labels=np.ones((1, 3), int),
        scores=np.array([[0.9, 0.5, 0.1]]),
        mask=np.array([[True, True, False]]),
    )
    truths = TruthBatch(
        boxes=np.array([[[0.0, 0, 10, 10]]]), labels=np.ones((1, 1), int), area=np.full((1, 1), 100.0),
        iscrowd=np.zeros((1, 1), bool), mask=np.ones((1, 1), bool),
    )  # fmt: skip
    aps, worth = leave_one_out(detections, truths, num_classes=1)
    np.testing.assert_allclose(aps, [0.5])
    np.testing.assert_allclose(worth, [[-0.5, 0.5, 0.0]])


def test_images_that_hold_nothing_give_nothing_to_lose() -> None:
    detections, truths = hostile(0, num_truths=0)
    aps, worth = leave_one_out(detections, truths, num_classes=NUM_CLASSES)
    assert np.isnan(aps).all()
    assert not worth.any()
