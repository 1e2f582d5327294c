"""The best threshold of a formula: against every threshold tried by itself, by the reward's own tallies of the whole pool."""

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.errors import UserError
from rl_det.rewards import Cost, Displayed, Edits, OverThePool, Pool, count_error, f1, image_ap_value, lrp, of_displayed
from rl_det.rewards.tallied import Tallied
from rl_det.rewards.thresholds import best_threshold, tallies_at, worth_of

VALUES: dict[str, Tallied] = {
    "f1": f1,
    "lrp": lrp,
    "cost": Cost(found=2.0, spurious=-0.5, missed=-3.0),
    "count_error": count_error,
}


def worth_in_a_pool(value: Tallied, detections: DetectionBatch, truths: TruthBatch, threshold: float) -> float:
    """As a reward sees the pool if image 0 stays as it is."""
    pool = Pool(detections=detections, truths=truths, num_classes=NUM_CLASSES, displayed_from=threshold)
    return float(OverThePool(value)(Edits(pool, np.array([0]), detections[:1]))[0])


@pytest.mark.parametrize("name", VALUES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num_detections=st.integers(0, 16), num_truths=st.integers(0, 5))
def test_no_threshold_is_worth_more_and_none_above_it_as_much(
    name: str, seed: int, num_detections: int, num_truths: int
) -> None:
    value = VALUES[name]
    data = hostile(seed, num_images=3, num_detections=num_detections, num_truths=num_truths)
    best = best_threshold(value, *data, num_classes=NUM_CLASSES)
    tried = {float(at): worth_in_a_pool(value, *data, float(at)) for at in [np.inf, *np.unique(data[0].scores)]}
    assert best.worth == pytest.approx(max(tried.values()), abs=1e-12)
    assert tried[best.threshold] == pytest.approx(best.worth, abs=1e-12)
    assert all(worth < best.worth - 1e-12 for at, worth in tried.items() if at > best.threshold)
    tallies = tallies_at(*data, best.threshold, num_classes=NUM_CLASSES)
    assert worth_of(value, tallies, NUM_CLASSES) == pytest.approx(best.worth, abs=1e-12)


def test_over_the_pool_is_the_same_threshold_as_of_the_images() -> None:
    data = hostile(1)
    own, pooled = (best_threshold(value, *data, num_classes=NUM_CLASSES) for value in (f1, OverThePool(f1)))
    assert own == pooled


def test_a_data_set_of_redrawn_images_is_worth_what_their_tallies_are() -> None:
    detections, truths = hostile(2)
    images = np.array([3, 3, 0])
    tallies = tallies_at(detections, truths, 0.5, num_classes=NUM_CLASSES)[images]
    expected = tallies_at(detections[images], truths[images], 0.5, num_classes=NUM_CLASSES)
    assert worth_of(count_error, tallies, NUM_CLASSES) == worth_of(count_error, expected, NUM_CLASSES)


def test_where_all_that_is_displayed_costs_nothing_is_displayed() -> None:
    detections, truths = hostile(3, num_truths=0)
    best = best_threshold(Cost(), detections, truths, num_classes=NUM_CLASSES)
    assert best == (np.inf, 0.0)


def test_a_formula_without_a_number_is_not_chosen() -> None:
    @of_displayed
    def precision(counts: Displayed) -> np.ndarray:
        shown = counts.found + counts.spurious
        return np.where(shown > 0, counts.found / np.maximum(shown, 1), np.nan)

    best = best_threshold(precision, *hostile(4), num_classes=NUM_CLASSES)
    assert 0 <= best.worth <= 1
    nowhere = best_threshold(precision, *hostile(4, num_detections=0), num_classes=NUM_CLASSES)
    assert nowhere.threshold == np.inf
    assert np.isnan(nowhere.worth)


def test_a_formula_of_ranked_detections_has_no_threshold() -> None:
    with pytest.raises(UserError, match="a threshold is for a formula of what is displayed, such as f1; got"):
        best_threshold(image_ap_value, *hostile(5), num_classes=NUM_CLASSES)
