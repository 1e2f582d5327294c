"""What became of each detection at one threshold: against `matching`, which has its bits, and against pycocotools' IoU."""

from dataclasses import replace

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.matching import match
from rl_det.ap.options import COCO, CocoOptions
from rl_det.metrics.outcomes import image_counts, last_of_equals, outcomes, threshold_counts, verdicts


@pytest.mark.parametrize(
    "options", [COCO, CocoOptions(area_range=(300.0, 96.0**2), max_detections=3)], ids=["coco", "other"]
)
@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("crowds", [(0.0, 0.1), (0.4, 0.9)])
def test_it_is_what_matching_says_of_that_threshold(
    crowds: tuple[float, float], iou_threshold: float, options: CocoOptions
) -> None:
    detections, truths = hostile(1, num_images=30, crowds=crowds)
    found = outcomes(detections, truths, num_classes=NUM_CLASSES, iou_threshold=iou_threshold, options=options)
    matches = match(
        detections, truths, num_classes=NUM_CLASSES, options=replace(options, iou_thresholds=(iou_threshold,))
    )
    rows = [
        (-matches.scores[b, place], b, label, place, matches.hits[0, b, place])
        for b in range(len(detections))
        for label in range(1, NUM_CLASSES + 1)
        for place in range(matches.starts[b, label], matches.starts[b, label + 1])
        if not matches.ignored[0, b, place] & 1
    ]
    rows.sort()
    assert (-found.scores).tolist() == [row[0] for row in rows]
    assert found.labels.tolist() == [row[2] for row in rows]
    assert found.correct.tolist() == [row[4] == 1 for row in rows]
    assert found.positives.tolist() == matches.positives[0].sum(0)[1:].tolist()
    assert found.iou_threshold == iou_threshold


def image(
    boxes: list[list[float]], scores: list[float], true_boxes: list[list[float]], crowd: list[bool]
) -> tuple[DetectionBatch, TruthBatch]:
    """One image of one class."""
    ones, true_ones = np.ones((1, len(boxes)), dtype=np.int64), np.ones((1, len(true_boxes)), dtype=np.int64)
    return (
        DetectionBatch(
            boxes=np.array([boxes]).reshape(1, -1, 4), labels=ones, scores=np.array([scores]), mask=ones.astype(bool)
        ),
        TruthBatch(
            boxes=np.array([true_boxes]).reshape(1, -1, 4), labels=true_ones, area=np.full(true_ones.shape, 100.0),
            iscrowd=np.array([crowd], dtype=bool), mask=true_ones.astype(bool),
        ),
    )  # fmt: skip


SQUARE, SHIFTED, ELSEWHERE = [0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0], [50.0, 50.0, 60.0, 60.0]


def test_the_iou_is_that_with_the_true_box_that_was_found() -> None:
    detections, truths = image([SHIFTED, SQUARE, ELSEWHERE], [0.9, 0.8, 0.7], [SQUARE], [False])
    found = outcomes(detections, truths, num_classes=1)
    xywh = np.array([[2.0, 0.0, 10.0, 10.0]]), np.array([[0.0, 0.0, 10.0, 10.0]])
    assert found.iou.tolist() == [coco_mask.iou(*xywh, np.zeros(1, dtype=np.uint8)).item(), 0.0, 0.0]
    assert found.correct.tolist() == [True, False, False]


def test_what_only_a_crowd_explains_does_not_count() -> None:
    found = outcomes(*image([SQUARE, ELSEWHERE], [0.5, 0.9], [SQUARE, ELSEWHERE], [False, True]), num_classes=1)
    assert found.scores.tolist() == [0.5]
    assert found.correct.tolist() == [True]
    assert found.positives.tolist() == [1]


def test_images_without_detections_or_objects_are_nothing_special() -> None:
    assert len(outcomes(*image([], [], [SQUARE], [False]), num_classes=2)) == 0
    found = outcomes(*image([SQUARE], [0.5], [], []), num_classes=2)
    assert found.scores.tolist() == [0.5]
    assert not found.correct.any()
    assert found.positives.tolist() == [0, 0]


COUNTS = ("found", "spurious", "missed", "miscounted", "distance")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_images=st.integers(1, 4),
    num_detections=st.integers(0, 24),
    num_truths=st.integers(0, 6),
    iou_threshold=st.sampled_from([0.3, 0.5, 0.75]),
)
def test_what_each_threshold_displays_is_counted_as_if_the_rest_were_not_there(
    seed: int, num_images: int, num_detections: int, num_truths: int, iou_threshold: float
) -> None:
    detections, truths = hostile(
        seed, num_images=num_images, num_detections=num_detections, num_truths=num_truths, crowds=(0.0, 0.6)
    )
    found = threshold_counts(detections, truths, num_classes=NUM_CLASSES, iou_threshold=iou_threshold)
    counted = outcomes(detections, truths, num_classes=NUM_CLASSES, iou_threshold=iou_threshold).scores
    assert found.iou_threshold == iou_threshold
    assert found.thresholds.tolist() == [np.inf, *sorted(set(counted.tolist()), reverse=True)]
    for place, threshold in enumerate(found.thresholds):
        displayed = replace(detections, mask=detections.mask & (detections.scores >= threshold))
        slow = image_counts(displayed, truths, num_classes=NUM_CLASSES, iou_threshold=iou_threshold)
        for name in COUNTS:
            assert getattr(found, name)[place] == pytest.approx(getattr(slow, name).sum(), abs=1e-9), name


def test_a_threshold_displays_all_of_equal_scores() -> None:
    found = threshold_counts(*image([SQUARE, ELSEWHERE, SHIFTED], [0.5, 0.5, 0.2], [SQUARE], [False]), num_classes=1)
    assert found.thresholds.tolist() == [np.inf, 0.5, 0.2]
    assert found.found.tolist() == [0, 1, 1]
    assert found.spurious.tolist() == [0, 1, 2]
    assert found.missed.tolist() == [1, 0, 0]
    assert found.miscounted.tolist() == [1, 1, 2]


def test_without_a_detection_the_one_threshold_displays_nothing() -> None:
    found = threshold_counts(*image([], [], [SQUARE, ELSEWHERE], [False, True]), num_classes=1)
    assert [getattr(found, name).tolist() for name in ("thresholds", *COUNTS)] == [[np.inf], [0], [0], [1], [1], [0.0]]


def test_a_threshold_cuts_behind_equal_scores() -> None:
    assert last_of_equals(np.array([0.9, 0.5, 0.5, 0.5, 0.2, 0.2])).tolist() == [True, False, False, True, False, True]
    assert last_of_equals(np.zeros(0)).tolist() == []


def test_bad_input_is_named() -> None:
    detections, truths = image([SQUARE], [float("nan")], [SQUARE], [False])
    with pytest.raises(ValueError, match=r"detections.scores must be finite; got nan in image 0 at index 0"):
        outcomes(detections, truths, num_classes=1)
    with pytest.raises(ValueError, match="iou_thresholds must be"):
        outcomes(*image([SQUARE], [0.5], [SQUARE], [False]), num_classes=1, iou_threshold=0.0)


@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(10))
def test_verdicts_add_up_to_an_images_counts_and_each_true_box_is_found_once(seed: int, iou_threshold: float) -> None:
    detections, truths = hostile(seed, num_images=20, crowds=(0.4, 0.9) if seed % 2 else (0.0, 0.1))
    of_all = verdicts(detections, truths, num_classes=NUM_CLASSES, iou_threshold=iou_threshold)
    counts = image_counts(detections, truths, num_classes=NUM_CLASSES, iou_threshold=iou_threshold)
    assert of_all.correct.sum(1).tolist() == counts.found.tolist()
    wrong = detections.mask & ~of_all.correct & ~of_all.ignored
    assert wrong.sum(1).tolist() == counts.spurious.tolist()
    assert not ((of_all.correct | of_all.ignored) & ~detections.mask).any()
    assert not (of_all.correct & of_all.ignored).any()
    assert (of_all.truth[~of_all.correct] == -1).all()
    for b in range(len(detections)):
        found = of_all.truth[b, of_all.correct[b]]
        assert len(set(found.tolist())) == len(found)
        assert truths.mask[b, found].all()
        assert not truths.iscrowd[b, found].any()
        assert (truths.labels[b, found] == detections.labels[b, of_all.correct[b]]).all()
        missed = truths.mask[b] & ~truths.iscrowd[b]
        missed[found] = False
        assert int(missed.sum()) == counts.missed[b]
