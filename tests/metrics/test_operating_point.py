"""Thresholds of the best F1 and of the least LRP, against trying them all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_det.metrics.operating_point import (
    OperatingPoint,
    best_f1,
    best_f1_by_class,
    f1_by_class_thresholds,
    mean_optimal_lrp,
    operating_point,
    optimal_lrp,
)
from rl_det.metrics.outcomes import Outcomes

Row = tuple[int, bool, int, int]
rows = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 4), st.integers(1, 2)), max_size=30)


def outcomes_of(found: list[Row], missed: list[int]) -> Outcomes:
    """Rows of score, correct, IoU, label; and how many of each label are not found."""
    ranked = sorted(found, key=lambda row: -row[0])
    labels = np.array([row[3] for row in ranked], dtype=np.int64)
    correct = np.array([row[1] for row in ranked], dtype=bool)
    return Outcomes(
        scores=np.array([row[0] / 8 for row in ranked], dtype=float),
        labels=labels,
        correct=correct,
        iou=np.array([0.5 + row[2] / 8 if row[1] else 0.0 for row in ranked], dtype=float),
        positives=np.array([(correct & (labels == c + 1)).sum() + missed[c] for c in range(2)]),
    )


def f1_at(threshold: float, found: Outcomes) -> float:
    shown = found.scores >= threshold
    return float(2 * (found.correct & shown).sum() / (shown.sum() + found.positives.sum()))


def lrp_at(threshold: float, found: Outcomes) -> float:
    shown = found.scores >= threshold
    correct = found.correct & shown
    false_positives, missed = (shown & ~correct).sum(), found.positives.sum() - correct.sum()
    loss = ((1 - found.iou[correct]) / 0.5).sum()
    return float((loss + false_positives + missed) / (correct.sum() + false_positives + missed))


@given(found=rows, missed=st.lists(st.integers(0, 5), min_size=2, max_size=2))
def test_no_threshold_has_a_higher_f1(found: list[Row], missed: list[int]) -> None:
    outcomes = outcomes_of(found, missed)
    point = best_f1(outcomes)
    if not len(outcomes) or not outcomes.positives.any():
        assert point == OperatingPoint(1.0, 0.0, 0.0, 0.0)
        return
    assert point.f1 == pytest.approx(max(f1_at(t, outcomes) for t in outcomes.scores))
    assert point == operating_point(outcomes, point.threshold)
    shown = outcomes.scores >= point.threshold
    assert point.f1 == pytest.approx(f1_at(point.threshold, outcomes))
    assert point.precision == pytest.approx((outcomes.correct & shown).sum() / shown.sum())
    assert point.recall == pytest.approx((outcomes.correct & shown).sum() / outcomes.positives.sum())


@given(found=rows, missed=st.lists(st.integers(0, 5), min_size=2, max_size=2))
def test_no_threshold_has_a_lower_lrp(found: list[Row], missed: list[int]) -> None:
    outcomes = outcomes_of(found, missed)
    lrp = optimal_lrp(outcomes)
    if not outcomes.positives.any():
        assert all(math.isnan(figure) for figure in lrp)
        return
    assert lrp.error == pytest.approx(min([1.0, *(lrp_at(t, outcomes) for t in outcomes.scores)]))
    assert lrp_at(lrp.threshold, outcomes) == pytest.approx(lrp.error)
    shown = outcomes.scores >= lrp.threshold
    correct = outcomes.correct & shown
    assert lrp.false_negatives == pytest.approx(1 - correct.sum() / outcomes.positives.sum())
    assert lrp.false_positives == pytest.approx(1 - correct.sum() / shown.sum() if shown.any() else 0.0)
    if correct.any():
        assert lrp.localisation == pytest.approx((1 - outcomes.iou[correct]).mean())
    else:
        assert math.isnan(lrp.localisation)


@given(found=rows, missed=st.lists(st.integers(0, 5), min_size=2, max_size=2))
def test_each_class_has_its_own_threshold_and_its_own_lrp(found: list[Row], missed: list[int]) -> None:
    both = outcomes_of(found, missed)
    alone = [outcomes_of([row for row in found if row[3] == label], [0, 0]) for label in (1, 2)]
    for label, outcomes in enumerate(alone):
        outcomes.positives[label] += missed[label]
    assert best_f1_by_class(both) == [best_f1(outcomes) for outcomes in alone]
    errors = [optimal_lrp(outcomes).error for outcomes in alone if outcomes.positives.any()]
    assert mean_optimal_lrp(both) == pytest.approx(np.mean(errors) if errors else math.nan, nan_ok=True)


@given(found=rows, missed=st.lists(st.integers(0, 5), min_size=2, max_size=2), cut=st.integers(0, 9))
def test_f1_by_class_thresholds_is_of_all_classes_together(found: list[Row], missed: list[int], cut: int) -> None:
    outcomes = outcomes_of(found, missed)
    assert f1_by_class_thresholds(outcomes, [cut / 8] * 2) == operating_point(outcomes, cut / 8).f1
    left = outcomes_of([row for row in found if row[3] == 1 or row[0] >= cut], [0, 0])
    left.positives[:] = outcomes.positives
    assert f1_by_class_thresholds(outcomes, [0.0, cut / 8]) == operating_point(left, 0.0).f1


def test_classes_whose_scales_differ_need_a_threshold_each() -> None:
    low, high = [(2, True, 4, 1), (1, False, 0, 1)], [(8, True, 4, 2), (4, False, 0, 2)]
    both = outcomes_of([*low, *high], [0, 0])
    assert best_f1(both).f1 == pytest.approx(0.8)
    assert f1_by_class_thresholds(both, [point.threshold for point in best_f1_by_class(both)]) == 1


def test_a_perfect_detector_has_no_error_and_a_blind_one_all() -> None:
    perfect = optimal_lrp(outcomes_of([(8, True, 4, 1)] * 3, [0, 0]))
    assert perfect == (1.0, 0.0, 0.0, 0.0, 0.0)
    blind = optimal_lrp(outcomes_of([(8, False, 0, 1)], [2, 0]))
    assert blind.threshold == math.inf
    assert (blind.error, blind.false_positives, blind.false_negatives) == (1.0, 0.0, 1.0)
    assert math.isnan(blind.localisation)
    assert operating_point(outcomes_of([(4, True, 0, 1)], [0, 0]), 0.9) == OperatingPoint(0.9, 0.0, 0.0, 0.0)
