"""A policy's copy: it says the same, shares the frozen part, and nothing that happens to it reaches the other."""

import pytest
import torch
from contract.families import lively_retinanet

from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.detectors import Detector, OneStage, build_detector
from rl_det.policies.build import POLICIES, PolicyName, build_policy
from rl_det.policies.policy import Policy, apply_policy
from rl_det.training.averaging import copied

NUM_CLASSES = 3
IMAGES = [torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0)), torch.full((3, 40, 72), 0.5)]


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return build_detector("tiny", num_classes=NUM_CLASSES, input_size=64)


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest, detector: Detector) -> Policy:
    name: PolicyName = request.param
    return build_policy(name, detector)


def storages(policy: Policy) -> dict[str, int]:
    """Where each entry of the detector's state lies."""
    return {name: tensor.data_ptr() for name, tensor in policy.detector.plain().state_dict().items()}


def trained(policy: Policy) -> None:
    """A few steps on all that is trained, whatever they are good for."""
    optimizer = torch.optim.SGD(policy.trainable.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(parameter.square().sum() + parameter.sum() for parameter in policy.trainable.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()


def test_a_copy_says_the_same(policy: Policy) -> None:
    twin, encoded = policy.copy(), policy.detector.encode(IMAGES)
    assert type(twin) is type(policy)
    ours, theirs = (vars(apply_policy(one, encoded, 20)) for one in (twin, policy))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_copy_shares_the_frozen_part_and_no_trained_weight(policy: Policy) -> None:
    twin = policy.copy()
    ours, theirs = storages(policy), storages(twin)
    shared = {name for name in ours if ours[name] == theirs[name]}
    head = {name for name in ours if name.startswith(("roi_heads.box_head", "roi_heads.box_predictor"))}
    assert shared == set(ours) - head
    own = {tensor.data_ptr() for tensor in policy.trainable.state_dict().values()}
    assert not own & {tensor.data_ptr() for tensor in twin.trainable.state_dict().values()}


def test_training_a_copy_leaves_every_other_weight_bit_for_bit(policy: Policy) -> None:
    plain, trainable = copied(policy.detector.plain().state_dict()), copied(policy.trainable.state_dict())
    twin = policy.copy()
    trained(twin)
    twin.recalibrate(0.5, -1.0)
    twin.postprocessing = PostProcessingSettings(nms_iou=0.1)
    assert any(not torch.equal(value, trainable[name]) for name, value in twin.trainable.state_dict().items())
    for before, now in ((plain, policy.detector.plain().state_dict()), (trainable, policy.trainable.state_dict())):
        assert all(torch.equal(value, before[name]) for name, value in now.items())
    assert policy.postprocessing == PostProcessingSettings(nms_iou=policy.detector.nms_iou)
    frozen = {name: value for name, value in twin.detector.plain().state_dict().items() if "box_" not in name}
    assert all(torch.equal(value, plain[name]) for name, value in frozen.items())


def test_a_copy_of_a_one_stage_detectors_policy_shares_its_backbone_alone() -> None:
    torch.manual_seed(0)
    detector = lively_retinanet()
    assert isinstance(detector, OneStage)
    policy = build_policy("rescore", detector)
    twin = policy.copy()
    ours, theirs = storages(policy), storages(twin)
    assert {name for name in ours if ours[name] == theirs[name]} == {n for n in ours if n.startswith("backbone.")}
    encoded = detector.encode(IMAGES)
    assert torch.equal(detector.head(encoded).logits, twin.detector.head(encoded).logits)
