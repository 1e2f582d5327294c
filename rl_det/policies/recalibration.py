"""Recalibrate a tuned policy on validation images, so that its scores are probabilities, unless that costs AP.

AP is taken class by class, so what raises it may let the score scales of classes drift apart, and then no one threshold
serves them all. Each class is recalibrated by itself, which leaves its AP as it is.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors.encodings import Encodings
from rl_det.metrics.outcomes import outcomes
from rl_det.metrics.recalibration import Recalibration, fit_class_recalibration, fit_recalibration
from rl_det.policies.detections import detect_encoded
from rl_det.policies.policy import Policy

COST_OF_CALIBRATION = 5e-4
"""The validation AP that a recalibration may cost; a softmax cannot keep every order. Above it, none is applied."""


def recalibrated(
    policy: Policy, val: Encodings, num_candidates: int, validation_ap: Callable[[Policy], float]
) -> Policy:
    """A copy, recalibrated class by class; if that costs AP, as a whole; if that does too, the policy itself.

    A softmax can keep neither order exactly. Soft-NMS depends on the scores' scale: under it, the policy stays as it is.
    After votes, whose numbers depend on the scores' scale too, post-processing recalibrates the detections themselves.
    """
    how = policy.postprocessing
    if how.votes.is_neutral and not how.is_hard:
        return policy
    found = outcomes(
        pad_detections(detect_encoded(policy, val, num_candidates)),
        pad_targets(val.targets),
        num_classes=policy.detector.num_classes,
    )
    least = validation_ap(policy) - COST_OF_CALIBRATION
    for fit in (fit_class_recalibration, fit_recalibration):
        twin, own = policy.copy(), fit(found)
        if how.votes.is_neutral:
            twin.recalibrate(*(torch.from_numpy(value) for value in own))
        else:
            twin.postprocessing = recalibrated_settings(how, own)
        if validation_ap(twin) >= least:
            return twin
    return policy


def recalibrated_settings(how: PostProcessingSettings, own: Recalibration) -> PostProcessingSettings:
    """Post-processing that recalibrates the detections that it gives now; their order within a class stays."""
    scale, shift = own.scale * how.scale, own.scale * how.shift + own.shift
    return replace(how, scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))
