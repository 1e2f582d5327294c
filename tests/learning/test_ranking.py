"""The agents on a toy detector whose best ranking is known: they find it, unless credit goes to the wrong candidates."""

from statistics import mean
from typing import Any

import pytest
import torch
from learning.toy import NUM_FEATURES, NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.rescore_detections import RescoreDetectionsVector
from rl_det_envs.select_detections import SelectDetectionsVector

from rl_det.agents import ppo, reinforce
from rl_det.agents.rollouts import collect
from rl_det.detectors import Detector
from rl_det.losses.advantages import Advantage
from rl_det.policies.detections import mean_ap
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.types import Encoded, HeadOutput

LEARNT, NOT_LEARNT = 0.95, 0.85
"""Validation AP; the best is 1, and the start is about 0.5."""


class ShuffledCredit(RescoreDetectionsVector):
    """Every candidate gets the credit of another one of its image."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *outcome, info = super().step(actions)
        away = torch.from_numpy(self.np_random.integers(1, NUM_PROPOSALS, (self.num_envs, 1)))
        order = (torch.arange(NUM_PROPOSALS) + away) % NUM_PROPOSALS
        return *outcome, {"credit": info["credit"].gather(1, order)}  # type: ignore[return-value]


class NoCredit(RescoreDetectionsVector):
    """The reward alone, as from any other environment."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *outcome, _ = super().step(actions)
        return *outcome, {}  # type: ignore[return-value]


def made(env: type, seed: int, **options: Any) -> tuple[ToyDetector, Any]:
    detector = ToyDetector()
    envs = env(
        64, detector=detector, dataset=toy_data(seed), num_candidates=NUM_PROPOSALS, samples_per_image=4, **options
    )
    envs.reset(seed=seed)
    return detector, envs


def learnt_by_ppo(
    env: type, seed: int, *, num_updates: int = 60, reward: str = "pool_ap", advantage: Advantage = "counterfactual"
) -> float:
    detector, envs = made(env, seed, reward=reward)
    policy = (
        SelectPolicy(detector, keep_bias=1.0) if env is SelectDetectionsVector else RescorePolicy(detector, sigma=0.5)
    )
    ppo.train(
        policy,
        envs,
        ppo.Config(
            num_updates=num_updates,
            learning_rate=0.05,
            mean_shift_penalty=0.0,
            validate_every=num_updates,
            advantage=advantage,
        ),
        generator=torch.Generator().manual_seed(seed),
        validate=lambda: validation_ap(detector),
    )
    return validation_ap(detector)


def learnt_by_reinforce(env: type, seed: int, config: reinforce.Config) -> float:
    detector, envs = made(env, seed)
    reinforce.train(
        RescorePolicy(detector, sigma=0.5),
        envs,
        config,
        generator=torch.Generator().manual_seed(seed),
        validate=lambda: validation_ap(detector),
    )
    return validation_ap(detector)


def validation_ap(detector: ToyDetector) -> float:
    return mean_ap(RescorePolicy(detector, sigma=0.5), toy_data(99), NUM_PROPOSALS, nms_iou=0.5)


def test_the_toy_is_a_detector_that_starts_badly_and_can_be_perfect() -> None:
    detector = ToyDetector()
    assert isinstance(detector, Detector)
    assert 0.3 < validation_ap(detector) < 0.6
    with torch.no_grad():
        detector.scores.weight.copy_(torch.eye(1, NUM_FEATURES))
    assert validation_ap(detector) == pytest.approx(1.0)


@pytest.mark.parametrize("env", [RescoreDetectionsVector, SelectDetectionsVector])
@pytest.mark.parametrize("reward", ["pool_ap", "image_ap"])
def test_ppo_finds_the_best_ranking(env: type, reward: str) -> None:
    assert learnt_by_ppo(env, seed=0, reward=reward) > LEARNT


def test_ppo_learns_from_the_reward_alone_where_there_is_no_credit() -> None:
    assert learnt_by_ppo(NoCredit, seed=0, num_updates=150) > LEARNT


@pytest.mark.parametrize("advantage", ["leave_one_out", "group"])
def test_ppo_finds_it_by_the_reward_of_the_whole_image_where_it_is_asked_to(advantage: Advantage) -> None:
    assert learnt_by_ppo(RescoreDetectionsVector, seed=0, num_updates=150, advantage=advantage) > LEARNT


def test_ppo_does_not_find_it_when_credit_goes_to_the_wrong_candidates() -> None:
    assert mean(learnt_by_ppo(ShuffledCredit, seed=seed) for seed in range(3)) < NOT_LEARNT


def test_reinforce_finds_the_best_ranking_by_credit() -> None:
    config = reinforce.Config(num_updates=100, learning_rate=0.05, mean_shift_penalty=0.0, validate_every=100)
    assert learnt_by_reinforce(RescoreDetectionsVector, 0, config) > LEARNT


def test_reinforce_finds_it_by_the_reward_of_the_whole_image_too() -> None:
    config = reinforce.Config(
        num_updates=200, learning_rate=0.05, mean_shift_penalty=0.0, validate_every=200, advantage="leave_one_out"
    )
    assert learnt_by_reinforce(NoCredit, 0, config) > LEARNT


def test_reinforce_does_not_find_it_when_credit_goes_to_the_wrong_candidates() -> None:
    config = reinforce.Config(num_updates=100, learning_rate=0.05, mean_shift_penalty=0.0, validate_every=100)
    assert mean(learnt_by_reinforce(ShuffledCredit, seed, config) for seed in range(3)) < NOT_LEARNT


def test_the_same_seed_gives_the_same_run() -> None:
    assert learnt_by_ppo(RescoreDetectionsVector, seed=3, num_updates=5) == learnt_by_ppo(
        RescoreDetectionsVector, seed=3, num_updates=5
    )


def test_training_that_brings_nothing_keeps_the_warm_start() -> None:
    detector, envs = made(RescoreDetectionsVector, 0)
    before = detector.scores.weight.detach().clone()
    aps = iter([0.5, 0.4, 0.3])
    best = ppo.train(
        RescorePolicy(detector, sigma=0.5),
        envs,
        ppo.Config(num_updates=50, validate_every=1, collapse_margin=0.15),
        generator=torch.Generator().manual_seed(0),
        validate=lambda: next(aps),  # a fourth call would raise: the collapse ends the run at the third
    )
    assert best == 0.5
    assert torch.equal(detector.scores.weight, before)


class Counted(ToyDetector):
    """It counts how often its head is asked."""

    asked = 0

    def head(self, encoded: Encoded) -> HeadOutput:
        self.asked += 1
        return super().head(encoded)


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_the_head_runs_once_for_the_rollout_and_the_first_epoch(num_epochs: int) -> None:
    detector = Counted()
    envs = RescoreDetectionsVector(16, detector=detector, dataset=toy_data(0), num_candidates=NUM_PROPOSALS,
                                   samples_per_image=4)  # fmt: skip
    policy = RescorePolicy(detector, sigma=0.5)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-3)
    rollout = collect(policy, envs, torch.Generator().manual_seed(0))
    assert detector.asked == 1
    ppo.update(policy, None, optimizer, rollout, None, ppo.Config(num_epochs=num_epochs))
    assert detector.asked == num_epochs


def test_a_policy_over_another_detector_than_the_environments_is_asked_itself() -> None:
    shown, own = ToyDetector(), ToyDetector()
    with torch.no_grad():
        own.scores.weight.mul_(-1)
    envs = RescoreDetectionsVector(16, detector=shown, dataset=toy_data(0), num_candidates=NUM_PROPOSALS,
                                   samples_per_image=4)  # fmt: skip
    rollout = collect(RescorePolicy(own, sigma=0.5), envs, torch.Generator().manual_seed(0))
    assert torch.equal(rollout.output.logits, own.head(rollout.encoded).logits)
    assert not torch.equal(rollout.output.logits, shown.head(rollout.encoded).logits)


def test_the_rollouts_graph_is_that_of_the_head_as_it_is() -> None:
    detector, envs = made(RescoreDetectionsVector, 0)
    policy = RescorePolicy(detector, sigma=0.5)
    rollout = collect(policy, envs, torch.Generator().manual_seed(0))
    log_prob = rollout.distribution.log_prob(rollout.action)
    assert torch.equal(log_prob, rollout.log_prob)
    assert rollout.reward.requires_grad is rollout.advantage.requires_grad is rollout.log_prob.requires_grad is False
    again = policy.distribution(rollout.observation, detector.head(rollout.encoded)).log_prob(rollout.action)
    (ours,) = torch.autograd.grad((log_prob * rollout.advantage).sum(), detector.scores.weight)
    (theirs,) = torch.autograd.grad((again * rollout.advantage).sum(), detector.scores.weight)
    assert torch.equal(ours, theirs)
