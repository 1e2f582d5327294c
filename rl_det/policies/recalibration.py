"""Recalibrate a tuned policy on validation images, so that its scores are probabilities, unless that costs AP."""

from collections.abc import Callable
from dataclasses import replace

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors.encodings import Encodings
from rl_det.metrics.outcomes import Outcomes, outcomes
from rl_det.metrics.recalibration import fit_recalibration
from rl_det.policies.detections import detect_encoded
from rl_det.policies.policy import Policy

COST_OF_CALIBRATION = 5e-4
"""The validation AP that a recalibration may cost; a softmax cannot keep every order. Above it, none is applied."""


def recalibrated(
    policy: Policy, val: Encodings, num_candidates: int, validation_ap: Callable[[Policy], float]
) -> Policy:
    """A recalibrated copy; or the policy itself if recalibration costs AP, or if its soft-NMS depends on the scores' scale.

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
    twin = policy.copy()
    if how.votes.is_neutral:
        twin.recalibrate(*fit_recalibration(found))
    else:
        twin.postprocessing = recalibrated_settings(how, found)
    kept = validation_ap(twin) >= validation_ap(policy) - COST_OF_CALIBRATION
    return twin if kept else policy


def recalibrated_settings(how: PostProcessingSettings, found: Outcomes) -> PostProcessingSettings:
    """Post-processing that recalibrates the detections behind these outcomes; their order stays."""
    scale, shift = fit_recalibration(found)
    return replace(how, scale=scale * how.scale, shift=scale * how.shift + shift)
