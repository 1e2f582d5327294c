"""Recalibrate a tuned policy on validation images, so that its scores are probabilities, unless that costs AP.

AP is taken class by class, so what raises it may let the score scales of classes drift apart, and then no one threshold
serves them all. Each class is recalibrated by itself, which leaves its AP as it is, unless an image has more detections
than it may keep: then those of all classes compete for the places.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors.encodings import Encodings
from rl_det.metrics.outcomes import outcomes
from rl_det.metrics.recalibration import Recalibration, fit_class_recalibration, fit_recalibration
from rl_det.policies.detections import detect_encoded
from rl_det.policies.head import HeadWithModule
from rl_det.policies.policy import Policy

COST_OF_CALIBRATION = 5e-4
"""The validation AP that recalibrated weights may cost, as a softmax cannot keep every order, and a full image not every
detection. Above it, the weights stay."""


def recalibrated(
    policy: Policy, val: Encodings, num_candidates: int, validation_ap: Callable[[Policy], float]
) -> Policy:
    """A copy, recalibrated class by class, so that the order within a class stays.

    A module, and sigmoids, take the map of each class exactly. A softmax takes that of all classes together. What each class
    still lacks is done by post-processing, at its end. All of it is, where post-processing votes or lowers scores (its
    numbers depend on the scores' scale), and where it costs AP in the weights.
    """
    how = policy.postprocessing
    detected = detect_encoded(policy, val, num_candidates)
    full = any(len(each["scores"]) == how.max_detections for each in detected)
    found = outcomes(pad_detections(detected), pad_targets(val.targets), num_classes=policy.detector.num_classes)
    classes, twin = fit_class_recalibration(found), policy.copy()

    def costs() -> bool:
        return validation_ap(twin) < validation_ap(policy) - COST_OF_CALIBRATION

    if not (how.votes.is_neutral and how.is_hard):
        twin.postprocessing = recalibrated_settings(how, classes)
        return twin
    if recalibrates_classes(policy):
        twin.recalibrate(*(torch.from_numpy(value) for value in classes))
        if full and costs():
            twin = policy.copy()
            twin.postprocessing = recalibrated_settings(how, classes)
        return twin
    whole = fit_recalibration(found)
    twin.recalibrate(*(torch.from_numpy(value) for value in whole))
    if costs():
        twin, whole = policy.copy(), Recalibration(np.ones_like(whole.scale), np.zeros_like(whole.shift))
    scale = classes.scale / whole.scale
    twin.postprocessing = recalibrated_settings(how, Recalibration(scale, classes.shift - scale * whole.shift))
    return twin


def recalibrates_classes(policy: Policy) -> bool:
    """Whether the policy's weights can take a scale and a shift for each class exactly."""
    return isinstance(policy, HeadWithModule) or policy.detector.recalibrates_classes


def recalibrated_settings(how: PostProcessingSettings, own: Recalibration) -> PostProcessingSettings:
    """Post-processing that recalibrates the detections that it gives now; their order within a class stays."""
    scale, shift = own.scale * how.scale, own.scale * how.shift + own.shift
    return replace(how, scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))
