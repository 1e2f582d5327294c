"""Every policy starts as the warm start itself, learns from there in all that it trains, and can go back to it."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from unchecked import unchecked

from rl_det.candidates import Observation, gather_logits, observe
from rl_det.detectors import Detector, build_detector
from rl_det.policies.adjust import AdjustPolicy
from rl_det.policies.build import POLICIES, build_policy, name_of
from rl_det.policies.context import ContextPolicy
from rl_det.policies.context_module import ContextModule
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy, apply_policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.policies.voting import VotingPolicy
from rl_det.policies.voting_module import VotingModule
from rl_det.training.averaging import copied
from rl_det.types import Candidates, Encoded

NUM_CLASSES = 3
NUM_CANDIDATES = 160  # more than the context module attends to


class Case(NamedTuple):
    """A detector, and what it says of two images, the second of which has padding among its candidates."""

    detector: Detector
    encoded: Encoded
    candidates: Candidates
    observation: Observation


def rescore(detector: Detector) -> Policy:
    return RescorePolicy(detector, sigma=0.5)


def select(detector: Detector) -> Policy:
    return SelectPolicy(detector, keep_bias=1.0)


def context(detector: Detector) -> ContextPolicy:
    policy = ContextPolicy(detector, sigma=0.5)
    torch.manual_seed(1)
    policy.module = ContextModule(
        num_classes=NUM_CLASSES, embedding_size=detector.embedding_size, width=16, num_layers=2
    )
    return policy


@pytest.fixture
def case() -> Case:
    """Fresh for every test: a test may train it."""
    torch.manual_seed(0)
    detector = build_detector("tiny", num_classes=NUM_CLASSES, input_size=64)
    nn.init.normal_(detector.plain().roi_heads.box_predictor.cls_score.weight, std=2.0)
    encoded = detector.encode([torch.rand(3, 48, 48), torch.rand(3, 40, 72)])
    encoded.mask[1, 40:] = False
    candidates = detector.propose(encoded, NUM_CANDIDATES)
    return Case(detector, encoded, candidates, observe(candidates, encoded))


def adjust(detector: Detector) -> Policy:
    return AdjustPolicy(detector, sigma=0.5, box_sigma=0.2)


def voting(detector: Detector) -> Policy:
    torch.manual_seed(1)
    return VotingPolicy(detector, VotingModule(NUM_CLASSES), sigma=0.5, box_sigma=0.2)


@pytest.fixture(params=[rescore, select, context, adjust, voting])
def policy(request: pytest.FixtureRequest, case: Case) -> Policy:
    return request.param(case.detector)


def logits(policy: Policy, case: Case) -> Tensor:
    return policy.logits(case.observation, case.detector.head(case.encoded))


def real(tensor: Tensor, case: Case) -> Tensor:
    return tensor[case.candidates.mask]


def awake(policy: Policy) -> Policy:
    """As after some training: nothing in it is zero any more."""
    with torch.no_grad():
        for parameter in policy.trainable.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return policy


def test_the_case_has_padding_in_one_image_alone(case: Case) -> None:
    assert case.candidates.mask.sum(1).tolist() == [NUM_CANDIDATES, 40 * NUM_CLASSES]


def test_it_is_a_policy(policy: Policy) -> None:
    assert isinstance(policy, Policy)


def test_at_step_zero_the_logits_are_the_detectors_own_bit_for_bit(policy: Policy, case: Case) -> None:
    own = gather_logits(case.detector.head(case.encoded).logits, case.candidates.index)
    assert torch.equal(real(logits(policy, case), case), real(own, case))
    assert torch.equal(real(logits(policy, case), case), real(case.candidates.logits, case))


def test_at_step_zero_rescoring_changes_nothing(policy: Policy, case: Case) -> None:
    again = apply_policy(policy, case.encoded, NUM_CANDIDATES)
    for name in ("boxes", "labels", "logits", "mask", "index"):
        assert torch.equal(getattr(again, name), getattr(case.candidates, name)), name


def test_at_step_zero_the_greedy_action_shifts_nothing_or_keeps_all(policy: Policy, case: Case) -> None:
    greedy = policy.distribution(case.observation, case.detector.head(case.encoded)).greedy()
    wanted = 1.0 if isinstance(policy, SelectPolicy) else 0.0
    assert (real(greedy, case) == wanted).all()


def test_gates_keep_with_the_probability_of_logit_and_bias(case: Case) -> None:
    gates = select(case.detector).distribution(case.observation, case.detector.head(case.encoded))
    assert torch.equal(real(gates.logits, case), real(case.candidates.logits, case) + 1.0)


def test_after_training_the_shifts_are_against_the_logits_that_were_observed(case: Case) -> None:
    for build in (rescore, context):
        policy = awake(build(case.detector))
        shifts = policy.distribution(case.observation, case.detector.head(case.encoded))
        moved = real(logits(policy, case) - case.candidates.logits, case)
        torch.testing.assert_close(real(shifts.mean, case), moved)
        assert moved.abs().max() > 0.01


def gradients(policy: Policy, case: Case) -> list[Tensor]:
    """Of a total in which no parameter's share cancels."""
    weights = torch.rand(case.candidates.mask.shape, generator=torch.Generator().manual_seed(3))
    total = (logits(policy, case) * weights)[case.candidates.mask].sum()
    found = torch.autograd.grad(total, list(policy.trainable.parameters()), allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


def test_at_step_zero_the_head_gets_gradient(policy: Policy, case: Case) -> None:
    classifier = case.detector.plain().roi_heads
    wanted = [*classifier.box_head.parameters(), *classifier.box_predictor.cls_score.parameters()]
    reached = {
        id(p)
        for p, gradient in zip(policy.trainable.parameters(), gradients(policy, case), strict=True)
        if gradient.any()
    }
    assert all(id(parameter) in reached for parameter in wanted)


def test_the_contexts_residual_is_zero_at_the_start_and_gets_gradient(case: Case) -> None:
    policy = context(case.detector)
    assert not policy.module.residual.weight.any()
    assert not policy.module.residual.bias.any()
    found = dict(zip(map(id, policy.trainable.parameters()), gradients(policy, case), strict=True))
    assert found[id(policy.module.residual.weight)].abs().max() > 0
    assert found[id(policy.module.residual.bias)].abs().max() > 0


def test_after_a_step_all_of_the_module_gets_gradient(case: Case) -> None:
    policy = context(case.detector)
    nn.init.normal_(policy.module.residual.weight)
    found = dict(zip(map(id, policy.trainable.parameters()), gradients(policy, case), strict=True))
    assert all(found[id(parameter)].any() for parameter in policy.module.parameters())


def test_a_state_brings_back_the_logits(policy: Policy, case: Case) -> None:
    before, state = logits(policy, case), copied(policy.trainable.state_dict())
    awake(policy)
    assert not torch.equal(logits(policy, case), before)
    policy.trainable.load_state_dict(state)
    assert torch.equal(logits(policy, case), before)


def test_a_state_loads_into_another_policy_of_its_kind(policy: Policy, case: Case) -> None:
    trained = awake(policy).trainable.state_dict()
    build: Callable[[Detector], Policy] = {
        RescorePolicy: rescore,
        SelectPolicy: select,
        ContextPolicy: context,
        AdjustPolicy: adjust,
        VotingPolicy: voting,
    }[type(policy)]
    torch.manual_seed(7)
    other = build(build_detector("tiny", num_classes=NUM_CLASSES, input_size=64))
    other.trainable.load_state_dict(trained)
    output = other.detector.head(case.encoded)
    assert torch.equal(other.logits(case.observation, output), logits(policy, case))


def test_every_trained_parameter_is_there_once(policy: Policy) -> None:
    held = [id(parameter) for parameter in policy.trainable.parameters()]
    assert len(set(held)) == len(held)
    assert {id(parameter) for parameter in policy.detector.trainable.parameters()} <= set(held)


def test_a_step_of_an_optimizer_lowers_the_logits_that_it_is_asked_to_lower(policy: Policy, case: Case) -> None:
    before = logits(policy, case).detach()
    optimizer = torch.optim.SGD(policy.trainable.parameters(), lr=1e-6)
    real(logits(policy, case), case).sum().backward()
    optimizer.step()
    assert real(logits(policy, case), case).sum() < real(before, case).sum()


def test_recalibrating_a_context_policy_maps_its_logits_exactly_and_leaves_the_plain_detector(case: Case) -> None:
    policy = awake(context(case.detector))
    before, plain = logits(policy, case), case.detector.head(case.encoded).logits
    policy.recalibrate(0.5, -1.0)
    policy.recalibrate(2.0, 0.25)  # of what the first has made
    torch.testing.assert_close(real(logits(policy, case), case), real(2.0 * (0.5 * before - 1.0) + 0.25, case))
    assert torch.equal(case.detector.head(case.encoded).logits, plain)


@pytest.mark.parametrize("build", [context, voting])
def test_a_module_recalibrates_each_class_exactly(build: Callable[[Detector], Policy], case: Case) -> None:
    policy = awake(build(case.detector))
    scale, shift = torch.linspace(0.5, 1.5, NUM_CLASSES), torch.linspace(-1.0, 1.0, NUM_CLASSES)
    before = apply_policy(policy, case.encoded, NUM_CANDIDATES)
    policy.recalibrate(scale, shift)
    after = apply_policy(policy, case.encoded, NUM_CANDIDATES)
    wanted = scale[before.labels - 1] * before.logits + shift[before.labels - 1]
    torch.testing.assert_close(after.logits[before.mask], wanted[before.mask])


def test_recalibrating_a_context_policy_keeps_the_order(case: Case) -> None:
    policy = awake(context(case.detector))
    before = apply_policy(policy, case.encoded, NUM_CANDIDATES)
    policy.recalibrate(0.7, -0.9)
    after = apply_policy(policy, case.encoded, NUM_CANDIDATES)
    assert torch.equal(before.index, after.index)
    sorted_by_after = before.logits[0].gather(0, after.logits[0].argsort(descending=True))
    assert (sorted_by_after.diff() <= 1e-5).all()


@pytest.mark.parametrize("build", [rescore, select])
def test_recalibrating_a_head_keeps_the_order_where_one_class_rivals_the_background(
    build: Callable[[Detector], Policy], case: Case
) -> None:
    scores = case.detector.plain().roi_heads.box_predictor.cls_score
    with torch.no_grad():
        scores.weight[2:], scores.bias[2:] = 0.0, -100.0
    policy = build(case.detector)
    before = case.detector.head(case.encoded).logits[..., 0]
    policy.recalibrate(0.7, -0.9)
    after = case.detector.head(case.encoded).logits[..., 0]
    torch.testing.assert_close(after, 0.7 * before - 0.9, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_a_sigma_that_is_not_positive_is_refused(case: Case, sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be positive; got"):
        RescorePolicy(case.detector, sigma=sigma)
    with pytest.raises(ValueError, match="sigma must be positive; got"):
        ContextPolicy(case.detector, sigma=sigma)


@pytest.mark.parametrize("changes", [{"sigma": 0.0}, {"box_sigma": -1.0}, {"sigma": float("nan")}])
def test_an_exploration_that_draws_nothing_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"sigma must be (positive|a number); got .* is usual"):
        Exploration(**changes)


def test_every_policy_is_built_by_name_and_explores_as_it_is_asked_to(case: Case) -> None:
    explored = Exploration(sigma=0.25, box_sigma=0.125, keep_bias=3.0)
    for name in POLICIES:
        policy = build_policy(name, case.detector, explored)
        assert isinstance(policy, Policy)
        assert name_of(policy) == name
        for width in ("sigma", "box_sigma", "keep_bias"):
            assert getattr(policy, width, getattr(explored, width)) == getattr(explored, width)
    with pytest.raises(ValueError, match=r"policy must be one of rescore, .*; got 'vote'"), unchecked():
        build_policy("vote", case.detector)  # type: ignore[arg-type]
