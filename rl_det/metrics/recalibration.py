"""Fit a monotone map of logits that turns scores into probabilities, from the outcomes on a validation split."""

from typing import NamedTuple

import numpy as np

from rl_det.metrics.outcomes import Outcomes


class Recalibration(NamedTuple):
    """The map logit -> scale * logit + shift; the scale is positive, so the order does not change."""

    scale: float
    shift: float


def fit_recalibration(outcomes: Outcomes) -> Recalibration:
    """Platt's scaling of the logits by maximum likelihood (Platt 1999); the identity if nothing can be learned."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    identity, correct = Recalibration(1.0, 0.0), outcomes.correct
    if correct.all() or not correct.any():
        return identity
    clipped = np.clip(outcomes.scores, 1e-7, 1 - 1e-7)
    logits = np.log(clipped) - np.log1p(-clipped)
    fitted = LogisticRegression(C=np.inf).fit(logits[:, None], correct)
    scale = float(fitted.coef_[0, 0])
    return Recalibration(scale, float(fitted.intercept_[0])) if scale > 0 else identity
