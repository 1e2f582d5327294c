"""Matching at all thresholds in one pass, against pycocotools' own matches."""

from copy import copy

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile, pycocotools_evaluation
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.matching import Matches, match, match_ranges
from rl_det.ap.options import COCO, CocoOptions

OPTIONS = {
    "coco": COCO,
    "one threshold": CocoOptions(iou_thresholds=(0.5,)),
    "exact boxes": CocoOptions(iou_thresholds=(0.3, 0.7, 1.0)),
    "small objects": CocoOptions(area_range=(0.0, 32.0**2)),
    "three detections": CocoOptions(max_detections=3),
}


def outcomes(matches: Matches, image: int, label: int, num_thresholds: int) -> tuple[np.ndarray, np.ndarray]:
    places = slice(matches.starts[image, label], matches.starts[image, label + 1])
    bits = np.arange(num_thresholds)[:, None]
    return (matches.hits[0, image, places] >> bits) & 1, (matches.ignored[0, image, places] >> bits) & 1


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_hits_and_ignored_detections_are_pycocotools(seed: int, name: str) -> None:
    options = OPTIONS[name]
    detections, truths = hostile(seed)
    matches = match(detections, truths, num_classes=NUM_CLASSES, options=options)
    evaluated = {
        (entry["image_id"], entry["category_id"]): entry
        for entry in pycocotools_evaluation(detections, truths, options).evalImgs
        if entry is not None
    }
    for image in range(len(truths)):
        for label in range(1, NUM_CLASSES + 1):
            hits, ignored = outcomes(matches, image, label, len(options.iou_thresholds))
            entry = evaluated.get((image, label))
            if entry is None:
                assert not hits.size
                assert not matches.positives[0, image, label]
                continue
            counted = min(hits.shape[1], options.max_detections)
            expected = entry["dtIgnore"].astype(bool)
            np.testing.assert_array_equal(ignored[:, :counted], expected)
            np.testing.assert_array_equal(hits[:, :counted], (entry["dtMatches"] > 0) & ~expected)
            assert ignored[:, counted:].all()
            assert not hits[:, counted:].any()
            assert matches.positives[0, image, label] == (~entry["gtIgnore"].astype(bool)).sum()


@pytest.mark.parametrize("num_detections", [3, 70, 450])
def test_places_are_by_class_then_score_then_index(num_detections: int) -> None:
    detections, truths = hostile(5, num_detections=num_detections)
    matches = match(detections, truths, num_classes=NUM_CLASSES)
    for image in range(len(truths)):
        shown = np.flatnonzero(detections.mask[image])
        expected = sorted(shown, key=lambda i: (detections.labels[image, i], -detections.scores[image, i], i))
        total = matches.starts[image, -1]
        assert matches.order[image, :total].tolist() == expected
        assert matches.scores[image, :total].tolist() == detections.scores[image, expected].tolist()
        assert matches.starts[image].tolist() == [
            (detections.labels[image, shown] < label).sum() for label in range(NUM_CLASSES + 2)
        ]


def test_more_true_boxes_than_a_machine_word_has_bits() -> None:
    detections, truths = hostile(3, num_images=2, num_truths=200, num_detections=150, crowds=(0.0, 0.1))
    matches = match(detections, truths, num_classes=NUM_CLASSES)
    entries = pycocotools_evaluation(detections, truths, COCO).evalImgs
    hits = sum(((entry["dtMatches"] > 0) & (entry["dtIgnore"] == 0)).sum() for entry in entries if entry is not None)
    assert np.bitwise_count(matches.hits).sum() == hits > 0


def test_several_area_ranges_at_once_are_each_by_itself() -> None:
    detections, truths = hostile(8)
    ranges = ((0.0, 1e10), (0.0, 400.0), (400.0, 5000.0))
    together = match_ranges(detections, truths, ranges, num_classes=NUM_CLASSES)
    for a, area_range in enumerate(ranges):
        alone = match(detections, truths, num_classes=NUM_CLASSES, options=CocoOptions(area_range=area_range))
        for name in ("hits", "ignored", "positives"):
            np.testing.assert_array_equal(getattr(together, name)[a], getattr(alone, name)[0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_in_which_detections_without_ties_are_given_means_nothing(seed: int) -> None:
    detections, truths = hostile(seed)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(detections.mask.shape[1])
    scores = rng.permuted(np.arange(detections.scores.size, dtype=float)).reshape(detections.scores.shape)
    given = DetectionBatch(boxes=detections.boxes, labels=detections.labels, scores=scores, mask=detections.mask)
    moved = DetectionBatch(**{name: values[:, shuffled] for name, values in vars(given).items()})
    one, other = (match(batch, truths, num_classes=NUM_CLASSES) for batch in (given, moved))
    for name in ("starts", "scores", "hits", "ignored"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def broken(batch: DetectionBatch | TruthBatch, name: str, value: float) -> DetectionBatch | TruthBatch:
    """The same batch with a fault at image 2, the first index that is not masked."""
    values = getattr(batch, name).copy()
    values[2, int(batch.mask[2].argmax())] = value
    return type(batch)(**{**vars(batch), name: values})


@pytest.mark.parametrize(
    ("argument", "name", "value", "message"),
    [
        ("detections", "scores", np.nan, r"detections\.scores must be finite; got nan in image 2 at index"),
        ("detections", "scores", np.inf, r"detections\.scores must be finite; got inf in image 2 at index"),
        ("detections", "boxes", np.nan, r"detections\.boxes must be finite; got \[nan, .* in image 2 at index"),
        ("detections", "labels", 0, r"detections\.labels must be in 1\.\.4; got 0 in image 2 at index"),
        ("detections", "labels", 5, r"detections\.labels must be in 1\.\.4; got 5 in image 2 at index"),
        ("truths", "boxes", np.inf, r"truths\.boxes must be finite; got \[inf, .* in image 2 at index"),
        ("truths", "labels", -1, r"truths\.labels must be in 1\.\.4; got -1 in image 2 at index"),
        ("truths", "area", -1.0, r"truths\.area must not be negative; got -1\.0 in image 2 at index"),
        ("truths", "area", np.nan, r"truths\.area must be finite; got nan in image 2 at index"),
    ],
)
def test_bad_numbers_are_named_with_image_and_index(argument: str, name: str, value: float, message: str) -> None:
    batches = dict(zip(("detections", "truths"), hostile(4), strict=True))
    batches[argument] = broken(batches[argument], name, value)
    with pytest.raises(ValueError, match=message):
        match(**batches, num_classes=NUM_CLASSES)


@pytest.mark.parametrize("argument", ["detections", "truths"])
def test_boxes_turned_inside_out_are_named(argument: str) -> None:
    batches = dict(zip(("detections", "truths"), hostile(4), strict=True))
    index = int(batches[argument].mask[2].argmax())
    boxes = batches[argument].boxes.copy()
    boxes[2, index] = (5.0, 5.0, 4.0, 9.0)
    batches[argument] = type(batches[argument])(**{**vars(batches[argument]), "boxes": boxes})
    with pytest.raises(
        ValueError, match=rf"{argument}\.boxes must have x1 <= x2 and y1 <= y2; got .* in image 2 at index {index}"
    ):
        match(**batches, num_classes=NUM_CLASSES)


def test_shapes_that_disagree_are_named() -> None:
    detections, truths = hostile(0)
    short = copy(detections)
    object.__setattr__(short, "scores", detections.scores[:, :-1])  # past the shape check that runs in tests alone
    with pytest.raises(ValueError, match=r"detections\.scores must have shape \(8, 24\)"):
        match(short, truths, num_classes=NUM_CLASSES)
    fewer = truths[:-1]
    with pytest.raises(ValueError, match="must hold the same images; got 8 and 7"):
        match(detections, fewer, num_classes=NUM_CLASSES)
    with pytest.raises(ValueError, match="num_classes must be at least 1; got 0"):
        match(detections, truths, num_classes=0)


def test_what_stands_on_padding_does_not_matter() -> None:
    detections, truths = hostile(4)
    scores = np.where(detections.mask, detections.scores, np.nan)
    boxes = np.where(detections.mask[..., None], detections.boxes, np.nan)
    area = np.where(truths.mask, truths.area, -1.0)
    one = match(detections, truths, num_classes=NUM_CLASSES)
    other = match(
        DetectionBatch(boxes=boxes, labels=detections.labels, scores=scores, mask=detections.mask),
        TruthBatch(**{**vars(truths), "area": area}),
        num_classes=NUM_CLASSES,
    )
    for name, values in vars(one).items():
        np.testing.assert_array_equal(values, getattr(other, name))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iou_thresholds": ()},
        {"iou_thresholds": (0.0, 0.5)},
        {"iou_thresholds": (0.5, 1.5)},
        {"iou_thresholds": (0.75, 0.5)},
        {"iou_thresholds": tuple(np.linspace(0.1, 0.9, 33).tolist())},
        {"area_range": (10.0, 5.0)},
        {"max_detections": 0},
        {"recall_points": ()},
        {"recall_points": (0.5, 0.1)},
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        CocoOptions(**wrong)  # type: ignore[arg-type]
