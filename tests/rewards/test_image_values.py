"""What an image's detections are worth by themselves: against slow greedy matching, and numbers worked out by hand."""

import numpy as np
import pytest
from rewards.scenes import LABELS, NUM_IMAGES, add, iou, make_pool, untouched

from rl_det.rewards import Cost, Edits, MatchedSum, best_iou, f1, image_ap_value, lrp
from rl_det.rewards.image_values import true_over_displayed

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def crowded_with_copies(seed: int, *, displayed_from: float = -np.inf) -> Edits:
    """The scenes with some copies a little off, so that there are duplicates at every threshold."""
    edits = untouched(make_pool(seed, displayed_from=displayed_from))
    rng = np.random.default_rng(seed)
    for image in range(NUM_IMAGES):
        boxes = edits.detections.boxes[image, :3] + rng.uniform(-4, 4, (3, 4))
        add(edits.detections, image, boxes, edits.detections.labels[image, :3], rng.normal(0, 1, 3))
    return edits


def slowly_matched(edits: Edits, row: int, threshold: float) -> tuple[list[float], list[int], int, int, list[int]]:
    """IoUs and labels of what is found, how many are spurious and missed, and the duplicates' labels; no crowds here."""
    d, t = edits.detections, edits.truths
    free = {g for g in range(t.mask.shape[1]) if t.mask[row, g]}
    everything = set(free)
    ious, labels, spurious, duplicates = [], [], 0, []
    displayed = [i for i in range(d.mask.shape[1]) if d.mask[row, i] and d.scores[row, i] >= edits.pool.displayed_from]
    for i in sorted(displayed, key=lambda i: -d.scores[row, i]):
        overlaps = {
            g: iou(d.boxes[row, i].astype(float), t.boxes[row, g])
            for g in everything if t.labels[row, g] == d.labels[row, i]
        }  # fmt: skip
        best = max((g for g in free if overlaps.get(g, 0) >= threshold), key=lambda g: overlaps[g], default=None)
        if best is not None:
            free.remove(best)
            ious.append(overlaps[best])
            labels.append(int(d.labels[row, i]))
            continue
        spurious += 1
        if max(overlaps.values(), default=0) >= threshold:
            duplicates.append(int(d.labels[row, i]))
    return ious, labels, spurious, len(free), duplicates


@pytest.mark.parametrize("displayed_from", [-np.inf, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_f1_lrp_and_cost_count_what_is_found_spurious_and_missed_among_what_is_displayed(
    seed: int, displayed_from: float
) -> None:
    edits = crowded_with_copies(seed, displayed_from=displayed_from)
    prices = Cost(found=2.0, spurious=-0.5, missed=-3.0)
    scores, errors, costs = f1(edits), lrp(edits), prices(edits)
    for row in range(NUM_IMAGES):
        ious, _, spurious, missed, _ = slowly_matched(edits, row, 0.5)
        found = len(ious)
        whole = found + spurious + missed
        assert scores[row] == pytest.approx(2 * found / (2 * found + spurious + missed) if whole else 1)
        error = (sum(1 - x for x in ious) / 0.5 + spurious + missed) / whole if whole else 0
        assert errors[row] == pytest.approx(1 - error, abs=1e-6)
        assert costs[row] == 2 * found - 0.5 * spurious - 3 * missed
    assert len(set(scores.tolist())) > 1


@pytest.mark.parametrize("seed", range(3))
def test_matched_sum_is_pintos_sum_over_objects_less_its_price_for_duplicates(seed: int) -> None:
    edits, counts = crowded_with_copies(seed), np.array([5, 5, 2])
    weights = 1 / (counts + 0.05 * counts.sum())
    weights /= weights.mean()
    paid = MatchedSum.weighted(counts)(edits)
    for row in range(NUM_IMAGES):
        expected = 0.0
        for threshold in THRESHOLDS:
            _, labels, _, _, duplicates = slowly_matched(edits, row, threshold)
            expected += sum(weights[label - 1] for label in labels) - 0.3 * len(duplicates)
        assert paid[row] == pytest.approx(expected / 10, abs=1e-9)
    assert weights[2] > weights[0]  # the rarer class


@pytest.mark.parametrize("seed", range(3))
def test_image_ap_counts_classes_that_are_there_or_predicted(seed: int) -> None:
    edits = crowded_with_copies(seed)
    for row, value in enumerate(image_ap_value(edits)):
        predicted = set(edits.detections.labels[row, edits.detections.mask[row]].tolist())
        aps = []
        for label in set(LABELS[row]) | predicted:
            aps.append(slow_ap(edits, row, label) if label in LABELS[row] else 0.0)
        assert value == pytest.approx(np.mean(aps), abs=1e-9)


def slow_ap(edits: Edits, row: int, label: int) -> float:
    """COCO's, of one class of one image, from its definition."""
    d, t = edits.detections, edits.truths
    objects = [g for g in range(t.mask.shape[1]) if t.mask[row, g] and t.labels[row, g] == label]
    own = [i for i in range(d.mask.shape[1]) if d.mask[row, i] and d.labels[row, i] == label]
    own.sort(key=lambda i: -d.scores[row, i])
    aps = []
    for threshold in THRESHOLDS:
        free, right, precision, recall = set(objects), 0, [], []
        for rank, i in enumerate(own, 1):
            overlaps = {g: iou(d.boxes[row, i].astype(float), t.boxes[row, g]) for g in free}
            best = max((g for g in free if overlaps[g] >= threshold), key=lambda g: overlaps[g], default=None)
            if best is not None:
                free.remove(best)
                right += 1
            precision.append(right / rank)
            recall.append(right / len(objects))
        aps.append(np.mean([max((p for p, r in zip(precision, recall, strict=True) if r >= level - 1e-12), default=0)
                            for level in np.linspace(0, 1, 101)]))  # fmt: skip
    return float(np.mean(aps))


def test_where_nothing_is_and_nothing_is_found_all_is_well() -> None:
    edits = untouched(make_pool())[np.array([3])]
    edits.detections.mask[:] = False
    assert [float(value(edits)[0]) for value in (image_ap_value, f1, lrp, true_over_displayed)] == [1, 1, 1, 1]
    assert best_iou(edits)[0] == 0
    assert Cost()(edits)[0] == 0
    assert MatchedSum()(edits)[0] == 0


def test_in_a_crowd_nothing_counts_for_or_against() -> None:
    edits = untouched(make_pool())[np.array([1])]
    edits.truths.iscrowd[0, 1] = True  # that of the first detection
    values = [image_ap_value, f1, lrp, Cost(), MatchedSum(), best_iou]
    before = [float(value(edits)[0]) for value in values]
    box, label = edits.detections.boxes[0, :1], edits.detections.labels[0, :1]
    add(edits.detections, 0, np.repeat(box, 5, 0), np.repeat(label, 5), np.full(5, 8.0))
    again = Edits(edits.pool, edits.images, edits.detections)
    again.truths.iscrowd[0, 1] = True
    assert [float(value(again)[0]) for value in values] == pytest.approx(before)


def test_best_iou_is_the_mean_over_objects_of_the_nearest_of_their_class() -> None:
    edits = crowded_with_copies(0)
    for row, value in enumerate(best_iou(edits)):
        nearest = [
            max(
                iou(edits.detections.boxes[row, i].astype(float), edits.truths.boxes[row, g])
                for i in np.flatnonzero(edits.detections.mask[row])
                if edits.detections.labels[row, i] == edits.truths.labels[row, g]
            )
            for g in range(len(LABELS[row]))
        ]
        assert value == pytest.approx(np.mean(nearest) if nearest else 0, abs=1e-6)


def test_the_length_factor_is_one_until_more_is_displayed_than_there_is() -> None:
    edits = untouched(make_pool())
    displayed = edits.detections.mask.sum(1)
    expected = [min(1, len(own) / count) for own, count in zip(LABELS, displayed, strict=True)]
    np.testing.assert_allclose(true_over_displayed(edits), expected)
    assert true_over_displayed(edits)[3] == 0


@pytest.mark.parametrize("prices", [{"found": -1.0}, {"spurious": 0.5}, {"missed": 1.0}])
def test_prices_of_the_wrong_sign_are_refused(prices: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="prices must be"):
        Cost(**prices)
