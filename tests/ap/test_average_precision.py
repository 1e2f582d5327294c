"""AP per image and per class, against pycocotools and against the definition with its recall points."""

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile, pycocotools_image_class_ap
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_det.ap.average_precision import image_ap, image_class_ap
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.matching import match, match_ranges
from rl_det.ap.options import COCO, CocoOptions

OPTIONS = {
    "coco": COCO,
    "pascal's eleven points": CocoOptions(iou_thresholds=(0.5,), recall_points=tuple(np.linspace(0, 1, 11).tolist())),
    "large objects": CocoOptions(area_range=(32.0**2, 1e10)),
    "two detections": CocoOptions(max_detections=2),
}


def image_aps(detections: DetectionBatch, truths: TruthBatch, options: CocoOptions = COCO) -> np.ndarray:
    return image_ap(match(detections, truths, num_classes=NUM_CLASSES, options=options), options)[0]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(15))
def test_each_images_ap_is_pycocotools_to_the_last_digit(seed: int, name: str) -> None:
    options = OPTIONS[name]
    detections, truths = hostile(seed, num_images=20, num_detections=[5, 30, 120][seed % 3])
    expected = pycocotools_image_class_ap(detections, truths, options)
    matches = match(detections, truths, num_classes=NUM_CLASSES, options=options)
    np.testing.assert_allclose(image_class_ap(matches, options)[0], expected, rtol=0, atol=1e-12)
    held = ~np.isnan(expected).all(1)
    np.testing.assert_allclose(image_ap(matches, options)[0, held], np.nanmean(expected[held], 1), rtol=0, atol=1e-12)
    assert np.isnan(image_ap(matches, options)[0, ~held]).all()


@pytest.mark.parametrize("seed", range(10))
def test_the_walk_is_the_definition_with_its_recall_points(seed: int) -> None:
    detections, truths = hostile(seed)
    matches = match(detections, truths, num_classes=NUM_CLASSES)
    found = image_class_ap(matches)[0]
    for image, label in zip(*np.nonzero(matches.positives[0]), strict=True):
        places = slice(matches.starts[image, label], matches.starts[image, label + 1])
        by_threshold = []
        for bit in range(10):
            hits = (matches.hits[0, image, places] >> bit) & 1
            counted = ((matches.ignored[0, image, places] >> bit) & 1) == 0
            recall = np.cumsum(hits) / matches.positives[0, image, label]
            precision = np.cumsum(hits) / np.maximum(np.cumsum(counted), 1)
            reached = [precision[recall >= point].max(initial=0.0) for point in np.linspace(0, 1, 101)]
            by_threshold.append(np.mean(reached))
        assert found[image, label - 1] == pytest.approx(np.mean(by_threshold), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 9.0), shift=st.floats(-5.0, 5.0))
def test_a_monotone_map_of_an_images_scores_changes_nothing(seed: int, factor: float, shift: float) -> None:
    detections, truths = hostile(seed)
    ranks = np.unique(detections.scores, return_inverse=True)[1].reshape(detections.scores.shape)
    mapped = DetectionBatch(**{**vars(detections), "scores": ranks * factor + shift})
    np.testing.assert_array_equal(image_aps(mapped, truths), image_aps(detections, truths))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_false_positive_below_every_true_positive_changes_nothing(seed: int) -> None:
    detections, truths = hostile(seed)
    boxes, scores, mask = detections.boxes.copy(), detections.scores.copy(), detections.mask.copy()
    boxes[:, -1], scores[:, -1] = (200.0, 200.0, 210.0, 210.0), -1.0
    mask[:, -1] = False
    without = DetectionBatch(boxes=boxes, labels=detections.labels, scores=scores, mask=mask.copy())
    mask[:, -1] = True
    beside = DetectionBatch(boxes=boxes, labels=detections.labels, scores=scores, mask=mask)
    np.testing.assert_array_equal(image_aps(beside, truths), image_aps(without, truths))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), threshold=st.floats(0.0, 1.5))
def test_a_score_threshold_never_raises_ap(seed: int, threshold: float) -> None:
    detections, truths = hostile(seed, crowds=(0.0, 0.0))
    above = DetectionBatch(**{**vars(detections), "mask": detections.mask & (detections.scores >= threshold)})
    worth, shown = image_aps(above, truths), image_aps(detections, truths)
    assert (np.isnan(worth) | (worth <= shown + 1e-12)).all()


def test_several_area_ranges_are_each_by_itself() -> None:
    detections, truths = hostile(8)
    ranges = ((0.0, 1e10), (0.0, 400.0))
    together = image_ap(match_ranges(detections, truths, ranges, num_classes=NUM_CLASSES))
    for aps, area_range in zip(together, ranges, strict=True):
        np.testing.assert_array_equal(aps, image_aps(detections, truths, CocoOptions(area_range=area_range)))


@pytest.mark.parametrize(("num_detections", "num_truths"), [(0, 5), (5, 0), (0, 0)])
def test_without_detections_ap_is_zero_and_without_true_boxes_it_is_not_a_number(
    num_detections: int, num_truths: int
) -> None:
    detections, truths = hostile(1, num_detections=num_detections, num_truths=num_truths, crowds=(0.0, 0.0))
    held = truths.mask.any(1)
    np.testing.assert_array_equal(image_aps(detections, truths), np.where(held, 0.0, np.nan))


@pytest.mark.parametrize("count", [1, 2, 7, 100, 101, 333])
def test_recall_weights_share_out_the_recall_points(count: int) -> None:
    weights = COCO.recall_weights.of(count)
    assert weights[0] == 0
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_array_equal(COCO.recall_weights.up_to(count)[count, : count + 1], weights)
