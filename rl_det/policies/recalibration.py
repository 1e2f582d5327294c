"""A tuned policy and validation images -> the same policy with scores that are probabilities, where that costs no AP."""

from collections.abc import Callable

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.detectors.encodings import EncodedDataset
from rl_det.metrics.outcomes import outcomes
from rl_det.metrics.recalibration import fit_recalibration
from rl_det.policies.detections import detect_encoded
from rl_det.policies.policy import Policy

COST_OF_CALIBRATION = 5e-4
"""How much validation AP a recalibration may cost before it is left out: a softmax cannot keep every order."""


def recalibrated(
    policy: Policy, val: EncodedDataset, num_candidates: int, validation_ap: Callable[[Policy], float]
) -> Policy:
    """A recalibrated copy, or the policy itself where that would cost AP, or where soft-NMS makes the scores' scale count."""
    if not policy.postprocessing.is_hard:
        return policy
    found = outcomes(
        pad_detections(detect_encoded(policy, val, num_candidates)),
        pad_targets(val.targets),
        num_classes=policy.detector.num_classes,
    )
    twin = policy.copy()
    twin.recalibrate(*fit_recalibration(found))
    kept = validation_ap(twin) >= validation_ap(policy) - COST_OF_CALIBRATION
    return twin if kept else policy
