"""The agents on a toy detector whose best ranking is known: they find it, unless credit goes to the wrong candidates."""

from statistics import mean
from typing import Any

import pytest
import torch
from learning.toy import NUM_FEATURES, NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.rescore_detections import RescoreDetectionsVector
from rl_det_envs.select_detections import SelectDetectionsVector

from rl_det.detectors import Detector
from rl_det.losses.advantages import Advantage
from rl_det.policies.detections import mean_ap
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.strategies.reinforce import Reinforce, ReinforceLearner
from rl_det.strategies.rollouts import collect
from rl_det.training.loop import FitRun, Learner, LoopConfig, fit
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
    policy: Policy = (
        SelectPolicy(detector, keep_bias=1.0) if env is SelectDetectionsVector else RescorePolicy(detector, sigma=0.5)
    )
    config = PPO(policy="rescore", mean_shift_penalty=0.0, advantage=advantage)
    learner = PpoLearner(policy, envs, config, **chance_and_validation(detector, seed))
    fit(learner, LoopConfig(num_updates=num_updates, learning_rate=0.05, validate_every=num_updates), name="ppo")
    return validation_ap(detector)


def learnt_by_reinforce(
    env: type, seed: int, *, num_updates: int = 100, advantage: Advantage = "counterfactual"
) -> float:
    detector, envs = made(env, seed)
    config = Reinforce(policy="rescore", mean_shift_penalty=0.0, advantage=advantage)
    policy = RescorePolicy(detector, sigma=0.5)
    learner = ReinforceLearner(policy, envs, config, **chance_and_validation(detector, seed))
    fit(learner, LoopConfig(num_updates=num_updates, learning_rate=0.05, validate_every=num_updates), name="reinforce")
    return validation_ap(detector)


def chance_and_validation(detector: ToyDetector, seed: int) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(seed), "validate": lambda: validation_ap(detector)}


def validation_ap(detector: ToyDetector) -> float:
    return mean_ap(RescorePolicy(detector, sigma=0.5), toy_data(99), NUM_PROPOSALS)


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
    assert learnt_by_reinforce(RescoreDetectionsVector, 0) > LEARNT


def test_reinforce_finds_it_by_the_reward_of_the_whole_image_too() -> None:
    assert learnt_by_reinforce(NoCredit, 0, num_updates=200, advantage="leave_one_out") > LEARNT


def test_reinforce_does_not_find_it_when_credit_goes_to_the_wrong_candidates() -> None:
    assert mean(learnt_by_reinforce(ShuffledCredit, seed) for seed in range(3)) < NOT_LEARNT


def test_the_same_seed_gives_the_same_run() -> None:
    assert learnt_by_ppo(RescoreDetectionsVector, seed=3, num_updates=5) == learnt_by_ppo(
        RescoreDetectionsVector, seed=3, num_updates=5
    )


def test_training_that_brings_nothing_keeps_the_warm_start() -> None:
    detector, envs = made(RescoreDetectionsVector, 0)
    before = detector.scores.weight.detach().clone()
    aps = iter([0.5, 0.4, 0.3])
    learner = PpoLearner(
        RescorePolicy(detector, sigma=0.5),
        envs,
        PPO(policy="rescore"),
        generator=torch.Generator().manual_seed(0),
        validate=lambda: next(aps),  # a fourth call would raise: the collapse ends the run at the third
    )
    config = LoopConfig(num_updates=50, learning_rate=2e-3, validate_every=1, collapse_margin=0.15)
    ending = fit(learner, config, name="ppo")
    assert (ending.reason, ending.update, ending.best) == ("collapse", 2, 0.5)
    assert torch.equal(detector.scores.weight, before)


class NothingToEarn(RescoreDetectionsVector):
    """No action is worth anything."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, *ends, info = super().step(actions)
        credit = torch.zeros_like(info["credit"])
        return observation, torch.zeros_like(reward), *ends, {"credit": credit}  # type: ignore[return-value]


@pytest.mark.parametrize("agent", ["ppo", "reinforce"])
def test_a_reward_that_is_always_0_is_said_to_teach_nothing(agent: str) -> None:
    detector, envs = made(NothingToEarn, 0)
    policy, rest = RescorePolicy(detector, sigma=0.5), chance_and_validation(detector, 0)
    learner: Learner = (
        PpoLearner(policy, envs, PPO(policy="rescore"), **rest)
        if agent == "ppo"
        else ReinforceLearner(policy, envs, Reinforce(policy="rescore"), **rest)
    )
    ending = fit(learner, LoopConfig(num_updates=50, learning_rate=2e-3, validate_every=2), name=agent)
    assert (ending.reason, ending.update) == ("nothing to learn", 2)


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
    config, generator = PPO(policy="rescore", num_epochs=num_epochs), torch.Generator().manual_seed(0)
    collect(policy, envs, generator)
    assert detector.asked == 1
    learner = PpoLearner(policy, envs, config, generator=generator, validate=lambda: 0.0)
    run = FitRun(learner, LoopConfig(num_updates=9, learning_rate=1e-3), "ppo")
    learner.update(1, run.descent)
    assert detector.asked == 1 + num_epochs


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
