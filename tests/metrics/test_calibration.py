"""Whether scores mean what they say, as probabilities and as a ranking of boxes; and the monotone map that mends the former."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_det.metrics.calibration import detection_calibration_error, reliability, score_iou_correlation
from rl_det.metrics.operating_point import best_f1
from rl_det.metrics.outcomes import Outcomes
from rl_det.metrics.recalibration import Recalibration, fit_class_recalibration, fit_recalibration, logits_of


def outcomes_of(scores: np.ndarray, correct: np.ndarray, iou: np.ndarray | None = None) -> Outcomes:
    """Of one class, ranked."""
    order = np.argsort(-scores, kind="stable")
    iou = np.where(correct, 0.75, 0.0) if iou is None else iou
    return Outcomes(
        scores=scores[order].astype(float), labels=np.ones(len(scores), dtype=np.int64), correct=correct[order],
        iou=iou[order], positives=np.array([int(correct.sum())]),
    )  # fmt: skip


def test_the_calibration_error_is_the_mean_gap_of_precision_and_score() -> None:
    scores, correct = np.array([0.9, 0.9, 0.9, 0.9, 0.11]), np.array([True, True, False, False, False])
    assert detection_calibration_error(outcomes_of(scores, correct)) == pytest.approx((4 * 0.4 + 0.11) / 5)
    assert detection_calibration_error(outcomes_of(np.array([1.0]), np.array([True]))) == 0.0
    assert math.isnan(detection_calibration_error(outcomes_of(np.zeros(0), np.zeros(0, dtype=bool))))


def test_the_reliability_diagram_has_the_points_of_the_calibration_error() -> None:
    scores, correct = np.array([0.91, 0.93, 0.11, 1.0]), np.array([True, False, False, True])
    own = reliability(outcomes_of(scores, correct))
    assert own.counts.tolist() == [0, 0, 1, *[0] * 15, 2, 1]
    assert own.mean_scores[own.counts > 0].tolist() == pytest.approx([0.11, 0.92, 1.0])
    assert own.precision[own.counts > 0].tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(own.mean_scores[own.counts == 0]).all()
    gaps = np.nan_to_num(np.abs(own.precision - own.mean_scores)) * own.counts
    assert gaps.sum() / 4 == pytest.approx(detection_calibration_error(outcomes_of(scores, correct)))
    assert reliability(outcomes_of(np.zeros(0), np.zeros(0, dtype=bool))).counts.tolist() == [0] * 20
    with pytest.raises(ValueError, match="must be probabilities"):
        reliability(outcomes_of(np.array([-0.1]), np.array([False])))


def test_logits_are_not_taken_for_probabilities() -> None:
    with pytest.raises(
        ValueError, match=r"must be probabilities, in \[0, 1\], to be calibrated; got 1\.5; logits need"
    ):
        detection_calibration_error(outcomes_of(np.array([0.5, 1.5]), np.array([True, False])))


@settings(deadline=None)  # the first call imports scipy.stats
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=30))
def test_the_correlation_is_that_of_the_correct_ones_mean_ranks(rows: list[tuple[int, int, bool]]) -> None:
    scores, iou, correct = (np.array([row[k] for row in rows]) for k in range(3))
    correct = correct.astype(bool)
    found = score_iou_correlation(outcomes_of(scores / 6, correct, np.where(correct, 0.5 + iou / 12, 0.0)))
    if correct.sum() < 2 or len(set(scores[correct])) < 2 or len(set(iou[correct])) < 2:
        assert math.isnan(found)
    else:
        ranks = [
            [(own < each).sum() + (own == each).sum() / 2 for each in own] for own in (scores[correct], iou[correct])
        ]
        assert found == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)


def test_recalibration_recovers_the_map_that_was_bent() -> None:
    rng = np.random.default_rng(0)
    true_logits = rng.normal(size=20_000) * 2
    correct = rng.uniform(size=20_000) < 1 / (1 + np.exp(-true_logits))
    bent = outcomes_of(1 / (1 + np.exp(-(true_logits * 2 - 1))), correct)
    (scale, *_), (shift, *_) = fit_recalibration(bent)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(0.5, abs=0.05)
    logits = np.log(bent.scores / (1 - bent.scores)) * scale + shift
    mended = replace(bent, scores=1 / (1 + np.exp(-logits)))
    assert detection_calibration_error(mended) < 0.3 * detection_calibration_error(bent)


@pytest.mark.parametrize("correct", [[True] * 4, [False] * 4, [True, True, False, False]])
def test_where_nothing_can_be_learned_or_the_order_is_upside_down_the_map_is_the_identity(correct: list[bool]) -> None:
    found = fit_recalibration(outcomes_of(np.array([0.1, 0.2, 0.8, 0.9]), np.array(correct)))
    assert np.array_equal(found, [[1.0], [0.0]])


def drifted(num_detections: tuple[int, ...], shifts: tuple[float, ...], seed: int = 0) -> Outcomes:
    """Detections of several classes; each class's logits are off by a shift of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(1, 1 + len(shifts)), num_detections)
    true_logits = rng.normal(size=len(labels)) * 2
    correct = rng.uniform(size=len(labels)) < 1 / (1 + np.exp(-true_logits))
    scores = 1 / (1 + np.exp(-(true_logits + np.array(shifts)[labels - 1])))
    order = np.argsort(-scores, kind="stable")
    return Outcomes(
        scores=scores[order], labels=labels[order], correct=correct[order], iou=np.where(correct, 0.8, 0.0)[order],
        positives=np.bincount(labels[correct], minlength=1 + len(shifts))[1:],
    )  # fmt: skip


def mended_by(found: Recalibration, drifted: Outcomes) -> Outcomes:
    column = drifted.labels - 1
    logits = found.scale[column] * logits_of(drifted) + found.shift[column]
    order = np.argsort(-logits, kind="stable")
    return Outcomes(
        scores=1 / (1 + np.exp(-logits[order])), labels=drifted.labels[order], correct=drifted.correct[order],
        iou=drifted.iou[order], positives=drifted.positives,
    )  # fmt: skip


def test_one_threshold_serves_all_classes_again_once_each_is_recalibrated() -> None:
    some, others = (drifted((4000, 4000, 4000), (-3.0, 0.0, 2.0), seed) for seed in (0, 1))
    found = fit_class_recalibration(some)
    np.testing.assert_allclose(found.scale, 1.0, atol=0.1)
    np.testing.assert_allclose(found.shift, [3.0, 0.0, -2.0], atol=0.3)
    before, as_a_whole = best_f1(others).f1, best_f1(mended_by(fit_recalibration(some), others)).f1
    by_class = [
        best_f1(mended_by(Recalibration(np.ones(3), np.array([3.0, 0.0, -2.0])), others)).f1,
        best_f1(mended_by(found, others)).f1,
    ]
    assert as_a_whole == pytest.approx(before)  # one map for all classes moves no detection past another
    assert by_class[1] == pytest.approx(by_class[0], abs=0.002)
    assert by_class[1] > before + 0.05


def test_a_class_with_few_detections_stays_near_all_and_one_without_is_as_all() -> None:
    found = fit_class_recalibration(drifted((4000, 3, 0), (1.0, -5.0, 0.0)))
    assert abs(found.shift[1] - found.shift[0]) < 3.0  # of the 6 that its three detections would ask for
    whole = fit_recalibration(drifted((4000, 3, 0), (1.0, -5.0, 0.0)))
    assert found.scale[2] == pytest.approx(whole.scale[2])
    assert found.shift[2] == pytest.approx(whole.shift[2])


def test_a_class_whose_order_is_upside_down_keeps_its_order() -> None:
    some = drifted((400, 400), (0.0, 0.0))
    turned = replace(some, correct=np.where(some.labels == 2, ~some.correct, some.correct))
    assert fit_class_recalibration(turned).scale[1] > 0


@pytest.mark.parametrize("logit", [3.0, 5.0, 7.0])
@pytest.mark.parametrize("count", [4, 20, 100, 2000])
@pytest.mark.parametrize("fit", [fit_recalibration, fit_class_recalibration])
def test_where_scores_tell_right_from_wrong_recalibrated_ones_are_not_equal(
    fit: Callable[[Outcomes], Recalibration], count: int, logit: float
) -> None:
    rng = np.random.default_rng(count)
    right, wrong = rng.uniform(logit - 2, logit + 2, count), rng.uniform(-7, -3, 5 * count)
    correct = np.arange(6 * count) < count
    found = fit(outcomes_of(1 / (1 + np.exp(-np.concatenate([right, wrong]))), correct))
    (scale,), (shift,) = found
    assert 0.2 < scale < 4
    highest = torch.tensor([logit + 1, logit + 2]).mul(scale).add(shift)
    assert len(set(highest.sigmoid().tolist())) == 2, "in single precision, as detections have them"
