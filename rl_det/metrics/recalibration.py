"""Fit monotone maps of logits that turn scores into probabilities, from the outcomes on a validation split."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from rl_det.metrics.outcomes import Outcomes

SPREAD_OF_SCALES, SPREAD_OF_SHIFTS = 0.5, 1.0
"""How far classes are expected to differ from all together, as standard deviations: of scales, and of shifts in logits."""
LEAST_SCALE = 0.1


class Recalibration(NamedTuple):
    """The map logit -> scale * logit + shift of each class; scales are positive, so the order within a class does not change.

    If classes differ, so does the order of their detections, which AP does not see, and a threshold for all classes does.
    """

    scale: Float64[np.ndarray, " C"]
    shift: Float64[np.ndarray, " C"]


def fit_recalibration(outcomes: Outcomes) -> Recalibration:
    """Platt's scaling of all classes' logits, with his targets (`targets_of`); the identity if nothing can be learned."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    every, correct = np.ones(len(outcomes.positives)), outcomes.correct
    identity = Recalibration(every, 0 * every)
    if correct.all() or not correct.any():
        return identity
    logits, targets = logits_of(outcomes)[:, None], targets_of(correct)
    both, weights = np.repeat([True, False], len(correct)), np.concatenate([targets, 1 - targets])
    fitted = LogisticRegression(C=np.inf).fit(np.concatenate([logits, logits]), both, sample_weight=weights)
    scale, shift = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return Recalibration(scale * every, shift * every) if scale > 0 else identity


def fit_class_recalibration(outcomes: Outcomes) -> Recalibration:
    """Platt's scaling of each class, drawn towards that of all classes together, by maximum a posteriori.

    Given the map of all, a class's own scale and shift on top of it are normal around 1 and 0, so few detections of a
    class say little, and none nothing.
    """
    whole = fit_recalibration(outcomes)
    column = outcomes.labels - 1
    logits = whole.scale[column] * logits_of(outcomes) + whole.shift[column]
    own = [_fit_class(logits[column == c], outcomes.correct[column == c]) for c in range(len(whole.scale))]
    scale, shift = np.transpose(own)
    return Recalibration(scale * whole.scale, scale * whole.shift + shift)


def targets_of(correct: Bool[np.ndarray, " M"]) -> Float64[np.ndarray, " M"]:
    """What Platt (1999) fits in place of 1 and 0: (n + 1) / (n + 2) for n correct ones, and 1 / (m + 2) for m others.

    Where the correct ones can be told from the others by their scores, as a few always can, 1 and 0 would have a scale without
    end; scores would round to 1, and be equal, so the order would be lost.
    """
    count = int(correct.sum())
    targets: Float64[np.ndarray, " M"] = np.where(correct, (count + 1) / (count + 2), 1 / (len(correct) - count + 2))
    return targets


def logits_of(outcomes: Outcomes) -> Float64[np.ndarray, " M"]:
    """The detections' logits; probabilities of 0 and 1 count as a little more and less."""
    clipped = np.clip(outcomes.scores, 1e-7, 1 - 1e-7)
    logits: Float64[np.ndarray, " M"] = np.log(clipped) - np.log1p(-clipped)
    return logits


def _fit_class(logits: Float64[np.ndarray, " m"], correct: Bool[np.ndarray, " m"]) -> Float64[np.ndarray, "2"]:
    """The most probable scale and shift of a class's logits: the minimum of a convex function."""
    from scipy.optimize import minimize  # slow to import

    features, targets = np.stack([logits, np.ones_like(logits)], 1), targets_of(correct)
    start, spread = np.array([1.0, 0.0]), np.array([SPREAD_OF_SCALES, SPREAD_OF_SHIFTS])

    def loss(own: Float64[np.ndarray, "2"]) -> tuple[float, Float64[np.ndarray, "2"]]:
        mapped, away = features @ own, (own - start) / spread
        surprise = np.logaddexp(0, mapped) - targets * mapped
        gradient = (np.exp(-np.logaddexp(0, -mapped)) - targets) @ features
        return float(surprise.sum() + away @ away / 2), gradient + away / spread

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(LEAST_SCALE, None), (None, None)])
    best: Float64[np.ndarray, "2"] = found.x
    return best
