"""The threshold of the best F1, against trying them all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_det.metrics.operating_point import OperatingPoint, best_f1


def f1_at(threshold: float, scores: np.ndarray, correct: np.ndarray, num_objects: int) -> float:
    shown = scores >= threshold
    return float(2 * (correct & shown).sum() / (shown.sum() + num_objects))


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30), st.integers(0, 5))
def test_no_threshold_has_a_higher_f1(rows: list[tuple[int, bool]], missed: int) -> None:
    scores = np.array([score / 8 for score, _ in rows])
    correct = np.array([hit for _, hit in rows])
    num_objects = int(correct.sum()) + missed
    if not num_objects:
        return
    point = best_f1(scores, correct, num_objects)
    assert point.f1 == pytest.approx(max(f1_at(t, scores, correct, num_objects) for t in scores))
    assert f1_at(point.threshold, scores, correct, num_objects) == pytest.approx(point.f1)
    shown = scores >= point.threshold
    assert point.precision == pytest.approx((correct & shown).sum() / shown.sum())
    assert point.recall == pytest.approx((correct & shown).sum() / num_objects)


def test_without_detections_or_objects_it_is_zero() -> None:
    assert best_f1(np.zeros(0), np.zeros(0, dtype=bool), 3) == OperatingPoint(1.0, 0.0, 0.0, 0.0)
    assert best_f1(np.ones(1), np.zeros(1, dtype=bool), 0) == OperatingPoint(1.0, 0.0, 0.0, 0.0)
