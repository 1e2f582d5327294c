"""The best threshold of a formula: against every threshold tried by itself, by the reward's own tallies of the whole pool."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ap.hostile import NUM_CLASSES, hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from rewards.test_credit import hostile_scene, random_step
from unchecked import unchecked

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.errors import UserError
from rl_det.rewards import (
    Cost,
    Displayed,
    Edits,
    OverThePool,
    Pool,
    Worth,
    count_error,
    f1,
    image_ap_value,
    lrp,
    of_displayed,
)
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


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda t: 1.0, "1.0"),
        (lambda t: None, "None"),
        (lambda t: t.found.tolist(), r"\[.*"),
        (lambda t: np.stack([t.found, t.missed]), r"one of the shape \(2, \d+\), of float64"),
        (lambda t: t.found[:, None], r"one of the shape \(\d+, 1\), of float64"),
        (lambda t: t.found.astype(str), r"one of the shape \(\d+,\), of <U32"),
    ],
)
def test_a_formula_of_a_wrong_shape_is_named_with_what_it_returned(returned: Any, told: str) -> None:
    def own(counts: Displayed) -> Any:
        return returned(counts)

    data, step = hostile(6), random_step(hostile_scene(6, 0.0), 0, ("scores",))
    pool = Pool(detections=data[0], truths=data[1], num_classes=NUM_CLASSES)
    with unchecked():
        formula = of_displayed(own)
        uses: tuple[Callable[[], Any], ...] = (
            lambda: formula(Edits(pool, np.arange(len(pool.truths)), data[0])),
            lambda: OverThePool(formula)(Edits(pool, np.arange(len(pool.truths)), data[0])),
            lambda: Worth(formula).credited(step, ended=True),
            lambda: best_threshold(formula, *data, num_classes=NUM_CLASSES),
        )
        for use in uses:
            with pytest.raises(UserError, match=rf"the tallies' shape, \(\d+,\); .*own\)? returned {told}$") as refused:
                use()
            assert "\n" not in str(refused.value)


def test_a_formula_that_says_yes_or_no_is_a_value_of_1_and_0() -> None:
    def own(counts: Displayed) -> Any:
        return counts.spurious % 2 == 1

    step = random_step(hostile_scene(7, 0.75), 0, ("scores",))
    with unchecked():
        earned, credit = Worth(of_displayed(own)).credited(step, ended=True)
    as_numbers = Worth(of_displayed(lambda counts: own(counts).astype(np.float64))).credited(step, ended=True)
    assert np.array_equal(earned, as_numbers[0])
    assert np.array_equal(credit, as_numbers[1])
    assert -1 in credit


def test_a_formula_of_ranked_detections_has_no_threshold() -> None:
    with pytest.raises(UserError, match="a threshold is for a formula of what is displayed, such as f1; got"):
        best_threshold(image_ap_value, *hostile(5), num_classes=NUM_CLASSES)
