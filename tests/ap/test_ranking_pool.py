"""The pool's mAP and its changes, against evaluating the whole data set again."""

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.data_set import class_ap
from rl_det.ap.matching import match, match_ranges
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.ranking_pool import RankingPool

OPTIONS = {
    "coco": COCO,
    "one threshold, few recall points": CocoOptions(iou_thresholds=(0.5,), recall_points=(0.0, 0.5, 1.0)),
    "middle-sized objects, three detections": CocoOptions(area_range=(100.0, 1000.0), max_detections=3),
}


def mean_ap(detections: DetectionBatch, truths: TruthBatch, options: CocoOptions) -> float:
    aps = class_ap(match(detections, truths, num_classes=NUM_CLASSES, options=options), options)
    return float(np.nanmean(aps))


def spliced(detections: DetectionBatch, image: int, others: DetectionBatch, row: int) -> DetectionBatch:
    """The data set's detections with one image's replaced."""
    columns = {name: values.copy() for name, values in vars(detections).items()}
    for name, values in columns.items():
        values[image] = getattr(others, name)[row]
    return DetectionBatch(**columns)


def edited(detections: DetectionBatch, images: np.ndarray, seed: int) -> DetectionBatch:
    """Other detections for some images: moved scores, other boxes, fewer or none."""
    rng = np.random.default_rng(seed)
    chosen = detections[images]
    strangers = hostile(seed + 1000, num_images=len(images), num_detections=chosen.mask.shape[1])[0]
    kind = rng.integers(0, 3, (len(images), 1))
    swap = kind == 1
    return DetectionBatch(
        boxes=np.where(swap[..., None], strangers.boxes, chosen.boxes),
        labels=np.where(swap, strangers.labels, chosen.labels),
        scores=np.where(kind == 0, chosen.scores + rng.integers(-3, 4, chosen.scores.shape) / 8, chosen.scores),
        mask=chosen.mask & ((kind < 2) | (rng.uniform(size=chosen.mask.shape) < 0.4)),
    )


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("seed", range(12))
def test_what_if_is_the_difference_of_two_whole_evaluations(seed: int, name: str) -> None:
    options = OPTIONS[name]
    detections, truths = hostile(seed, num_images=[6, 40][seed % 2], crowds=(0.0, 0.3))
    pool = RankingPool(match(detections, truths, num_classes=NUM_CLASSES, options=options), options)
    before = mean_ap(detections, truths, options)
    assert pool.mean_ap == pytest.approx(before, abs=1e-12)
    images = np.random.default_rng(seed).integers(0, len(truths), 15)
    others = edited(detections, images, seed)
    matches = match(others, truths[images], num_classes=NUM_CLASSES, options=options)
    expected = [
        mean_ap(spliced(detections, image, others, row), truths, options) - before for row, image in enumerate(images)
    ]
    np.testing.assert_allclose(pool.what_if(images, matches), expected, rtol=0, atol=1e-12)
    assert pool.mean_ap == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_shifts_that_no_table_foresees_are_walked(seed: int) -> None:
    """Few images with very many detections of few classes, of which most go or come at once."""
    detections, truths = hostile(seed, num_images=4, num_detections=200, num_truths=40, crowds=(0.0, 0.1))
    thin = DetectionBatch(**{**vars(detections), "mask": detections.mask & (np.arange(200) % 9 == 0)})
    for now, then in ((detections, thin), (thin, detections)):
        pool = RankingPool(match(now, truths, num_classes=NUM_CLASSES))
        changes = pool.what_if(np.arange(4), match(then, truths, num_classes=NUM_CLASSES))
        before = mean_ap(now, truths, COCO)
        expected = [mean_ap(spliced(now, image, then, image), truths, COCO) - before for image in range(4)]
        np.testing.assert_allclose(changes, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_a_pool_after_many_commits_is_the_pool_made_of_what_was_committed(seed: int) -> None:
    detections, truths = hostile(seed, num_images=20, num_detections=10)
    pool = RankingPool(match(detections, truths, num_classes=NUM_CLASSES))
    rng = np.random.default_rng(seed)
    for step in range(6):
        images = rng.permutation(20)[: step + 1]
        width = 10 + 8 * step  # more and more detections: the lists outgrow their room
        others = hostile(100 * seed + step, num_images=len(images), num_detections=width)[0]
        wide = {
            name: np.pad(values, ((0, 0), (0, width - values.shape[1]), (0, 0))[: values.ndim])
            for name, values in vars(detections).items()
        }
        detections = DetectionBatch(**wide)
        for row, image in enumerate(images):
            detections = spliced(detections, image, others, row)
        change = pool.mean_ap
        alone = pool.what_if(images[:1], match(others[np.array([0])], truths[images[:1]], num_classes=NUM_CLASSES))
        pool.replace(images, match(others, truths[images], num_classes=NUM_CLASSES))
        fresh = RankingPool(match(detections, truths, num_classes=NUM_CLASSES))
        np.testing.assert_allclose(pool.class_ap, fresh.class_ap, rtol=0, atol=1e-12)
        if len(images) == 1:
            assert pool.mean_ap - change == pytest.approx(alone[0], abs=1e-12)
        probe = edited(detections, np.arange(20), seed + step)
        matches = match(probe, truths, num_classes=NUM_CLASSES)
        np.testing.assert_allclose(
            pool.what_if(np.arange(20), matches), fresh.what_if(np.arange(20), matches), rtol=0, atol=1e-12
        )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_an_edit_that_changes_nothing_is_worth_exactly_nothing(seed: int) -> None:
    detections, truths = hostile(seed)
    matches = match(detections, truths, num_classes=NUM_CLASSES)
    assert not RankingPool(matches).what_if(np.arange(len(truths)), matches).any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_false_positives_below_every_true_positive_are_worth_exactly_nothing(seed: int) -> None:
    detections, truths = hostile(seed)
    low = DetectionBatch(**{**vars(detections), "boxes": detections.boxes + 500, "scores": detections.scores - 100})
    both = DetectionBatch(
        **{name: np.concatenate([getattr(detections, name), getattr(low, name)], 1) for name in vars(detections)}
    )
    pool = RankingPool(match(detections, truths, num_classes=NUM_CLASSES))
    changes = pool.what_if(np.arange(len(truths)), match(both, truths, num_classes=NUM_CLASSES))
    assert not changes.any()


def test_a_pool_without_a_true_box_has_no_ap() -> None:
    detections, truths = hostile(0, num_truths=0)
    matches = match(detections, truths, num_classes=NUM_CLASSES)
    pool = RankingPool(matches)
    assert np.isnan(pool.mean_ap)
    assert not pool.what_if(np.arange(len(truths)), matches).any()


def test_edits_of_another_data_set_are_refused() -> None:
    detections, truths = hostile(1)
    matches = match(detections, truths, num_classes=NUM_CLASSES)
    pool = RankingPool(matches)
    with pytest.raises(ValueError, match=r"images must be in 0\.\.7; got 8 at index 1"):
        pool.what_if(
            np.array([0, 8]),
            match(detections[np.array([0, 1])], truths[np.array([0, 1])], num_classes=NUM_CLASSES),
        )
    with pytest.raises(ValueError, match="one image for each row of matches; got 1 and 8"):
        pool.replace(np.array([0]), matches)
    with pytest.raises(ValueError, match="with the pool's own true boxes; those of image"):
        pool.what_if(np.arange(8)[::-1].copy(), matches)
    ranges = match_ranges(detections, truths, ((0.0, 10.0), (10.0, 20.0)), num_classes=NUM_CLASSES)
    with pytest.raises(ValueError, match="matches must be of one area range; got 2"):
        RankingPool(ranges)
