"""Recalibration of a tuned policy: better probabilities at no cost of AP, and left out where it would cost."""

import pytest
import torch

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.metrics.calibration import detection_calibration_error
from rl_det.metrics.outcomes import outcomes
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.detections import detect_encoded, policy_ap
from rl_det.policies.policy import Policy
from rl_det.policies.recalibration import COST_OF_CALIBRATION, recalibrated
from rl_det.training.averaging import copied

NUM_CANDIDATES = 48


@pytest.fixture(scope="module")
def val() -> EncodedDataset:
    shipped = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    return encode_dataset(shipped, DigitScenes("val", num_scenes=12))


def policy_named(name: PolicyName) -> Policy:
    torch.manual_seed(0)
    return build_policy(name, build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS))


def calibration_error(policy: Policy, val: EncodedDataset) -> float:
    found = pad_detections(detect_encoded(policy, val, NUM_CANDIDATES))
    return detection_calibration_error(outcomes(found, pad_targets(val.targets), num_classes=len(CLASSES)))


@pytest.mark.parametrize("name", ["rescore", "voting"])
def test_a_recalibrated_copy_is_better_calibrated_at_no_cost_and_the_policy_stays(
    name: PolicyName, val: EncodedDataset
) -> None:
    policy = policy_named(name)
    policy.recalibrate(0.3, -1.0)  # far too unsure of itself
    before = copied(policy.trainable.state_dict())

    def validation_ap(one: Policy) -> float:
        return policy_ap(one, val, NUM_CANDIDATES)

    found = recalibrated(policy, val, NUM_CANDIDATES, validation_ap)
    assert found is not policy
    assert calibration_error(found, val) < 0.7 * calibration_error(policy, val)
    assert validation_ap(found) >= validation_ap(policy) - COST_OF_CALIBRATION
    assert all(torch.equal(value, before[key]) for key, value in policy.trainable.state_dict().items())


def test_where_it_costs_ap_a_softmaxs_weights_stay_and_post_processing_keeps_the_order_of_each_class(
    val: EncodedDataset,
) -> None:
    policy = policy_named("rescore")
    policy.recalibrate(0.3, -1.0)
    found = recalibrated(policy, val, NUM_CANDIDATES, lambda one: 0.5 if one is policy else 0.4)
    before = policy.trainable.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in found.trainable.state_dict().items())
    assert len(found.postprocessing.scale) == len(CLASSES)
    assert calibration_error(found, val) < 0.7 * calibration_error(policy, val)
    own, other = (detect_encoded(one, val, NUM_CANDIDATES) for one in (policy, found))
    for some, others in zip(own, other, strict=True):
        for label in range(1, 1 + len(CLASSES)):
            assert torch.equal(some["boxes"][some["labels"] == label], others["boxes"][others["labels"] == label])


def test_under_soft_nms_whose_numbers_depend_on_the_scores_post_processing_recalibrates_what_it_gives(
    val: EncodedDataset,
) -> None:
    policy = policy_named("voting")
    policy.recalibrate(0.3, -1.0)
    policy.postprocessing = PostProcessingSettings.soft(0.5, 2.0)
    found = recalibrated(policy, val, NUM_CANDIDATES, lambda one: 0.5)
    before = policy.trainable.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in found.trainable.state_dict().items())
    assert found.postprocessing.sigma == policy.postprocessing.sigma
    assert calibration_error(found, val) < 0.7 * calibration_error(policy, val)
    assert policy_ap(found, val, NUM_CANDIDATES) == pytest.approx(policy_ap(policy, val, NUM_CANDIDATES), abs=1e-9)


def test_where_full_images_would_lose_detections_the_weights_stay_and_what_is_kept_is_recalibrated(
    val: EncodedDataset,
) -> None:
    """With six places an image, a class whose scores are far too high takes the places of the others."""
    policy = policy_named("voting")
    policy.recalibrate(torch.ones(len(CLASSES)), torch.linspace(-3.0, 3.0, len(CLASSES)))
    policy.postprocessing = PostProcessingSettings(nms_iou=0.5, max_detections=6)

    def validation_ap(one: Policy) -> float:
        return policy_ap(one, val, NUM_CANDIDATES)

    for cost in (0.1, 0.0):
        found = recalibrated(policy, val, NUM_CANDIDATES, lambda one, cost=cost: 0.5 - cost * (one is not policy))
        in_weights = cost == 0.0
        before = policy.trainable.state_dict()
        same = all(torch.equal(value, before[key]) for key, value in found.trainable.state_dict().items())
        assert same is not in_weights
        assert found.postprocessing.recalibrates is not in_weights
        if not in_weights:
            assert calibration_error(found, val) < calibration_error(policy, val)
            assert validation_ap(found) == pytest.approx(validation_ap(policy), abs=1e-9)
