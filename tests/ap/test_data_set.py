"""The figures of a whole data set, against pycocotools and COCO's own reference."""

import math

import numpy as np
import pytest
from ap.coco_reference import PUBLISHED, REFERENCE, reference
from ap.hostile import NUM_CLASSES, hostile, pycocotools_evaluation

from rl_det.ap.data_set import FIGURES, class_ap, class_precision, class_recall, coco_figures
from rl_det.ap.matching import match, match_ranges
from rl_det.ap.options import AREA_RANGES, COCO, CocoOptions
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.metrics.coco import coco_summary

OPTIONS = {
    "coco": COCO,
    "pascal's eleven points": CocoOptions(iou_thresholds=(0.5,), recall_points=tuple(np.linspace(0, 1, 11).tolist())),
    "large objects, two detections": CocoOptions(area_range=(32.0**2, 1e10), max_detections=2),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(10))
def test_ap_and_recall_of_each_class_are_pycocotools(seed: int, name: str) -> None:
    options = OPTIONS[name]
    detections, truths = hostile(seed, num_images=[3, 40][seed % 2])
    evaluation = pycocotools_evaluation(detections, truths, options).eval
    matches = match(detections, truths, num_classes=NUM_CLASSES, options=options)
    precision = evaluation["precision"][:, :, :, 0, 0].mean(1)  # thresholds, categories; -1 where there is none
    np.testing.assert_allclose(
        class_ap(matches, options)[0], np.where(precision < 0, np.nan, precision), rtol=0, atol=1e-12
    )
    recall = evaluation["recall"][:, :, 0, 0]
    found = class_recall(matches, options.max_detections, options)[0]
    np.testing.assert_allclose(found, np.where(recall < 0, np.nan, recall), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(10))
def test_the_precision_recall_curve_of_each_class_is_pycocotools_to_the_last_bit(seed: int, name: str) -> None:
    options = OPTIONS[name]
    detections, truths = hostile(seed, num_images=[3, 40][seed % 2])
    expected = pycocotools_evaluation(detections, truths, options).eval["precision"][:, :, :, 0, 0]
    matches = match(detections, truths, num_classes=NUM_CLASSES, options=options)
    curves = class_precision(matches, options)[0]
    np.testing.assert_array_equal(curves, np.where(expected < 0, np.nan, expected))
    np.testing.assert_allclose(curves.mean(1), class_ap(matches, options)[0], rtol=0, atol=1e-12)


def test_curves_have_every_area_range_and_are_zero_where_nothing_is_found() -> None:
    detections, truths = hostile(1, num_images=20)
    matches = match_ranges(detections, truths, tuple(AREA_RANGES.values()), num_classes=NUM_CLASSES)
    np.testing.assert_allclose(class_precision(matches).mean(2), class_ap(matches), rtol=0, atol=1e-12)
    detections, truths = hostile(1, num_detections=0, crowds=(0.0, 0.0))
    curves = class_precision(match(detections, truths, num_classes=NUM_CLASSES))
    assert (curves[..., :-1] == 0).all()
    assert np.isnan(curves[..., -1]).all()


@pytest.mark.parametrize("seed", range(10))
def test_the_twelve_figures_are_pycocotools(seed: int) -> None:
    detections, truths = hostile(seed, num_images=30, num_detections=130, num_truths=20)
    evaluation = pycocotools_evaluation(
        detections, truths, COCO, area_ranges=AREA_RANGES, max_detections=(1, 10, 100)
    )  # fmt: skip
    evaluation.summarize()
    expected = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
    found = coco_figures(detections, truths, num_classes=NUM_CLASSES)
    assert tuple(found) == FIGURES
    np.testing.assert_allclose(list(found.values()), expected, rtol=0, atol=1e-12)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"COCO's reference is not at {REFERENCE}")
def test_cocos_own_reference_is_met_in_all_twelve_figures() -> None:
    detections, targets, num_classes = reference()
    found = coco_figures(pad_detections(detections), pad_targets(targets), num_classes=num_classes)
    assert tuple(round(found[name], 3) for name in FIGURES) == PUBLISHED
    audited = coco_summary(detections, targets, num_classes=num_classes)
    np.testing.assert_allclose(list(found.values()), [audited[name] for name in FIGURES], rtol=0, atol=1e-12)


def test_figures_of_nothing_are_not_numbers() -> None:
    detections, truths = hostile(0, num_truths=0)
    assert all(math.isnan(figure) for figure in coco_figures(detections, truths, num_classes=NUM_CLASSES).values())
    detections, truths = hostile(0, num_detections=0, crowds=(0.0, 0.0))
    figures = coco_figures(detections, truths, num_classes=NUM_CLASSES)
    assert figures["AP"] == figures["AR100"] == 0.0
