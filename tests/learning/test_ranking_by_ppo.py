"""PPO on a toy detector whose best ranking is known: it finds it, unless credit goes to the wrong candidates."""

from statistics import mean

import pytest
import torch
from learning.ranking import (
    LEARNT,
    NOT_LEARNT,
    NothingToEarn,
    ShuffledCredit,
    chance_and_validation,
    made,
    validation_ap,
)
from learning.toy import NUM_FEATURES, ToyDetector
from rl_det_envs.rescore_detections import RescoreDetectionsVector
from rl_det_envs.select_detections import SelectDetectionsVector

from rl_det.detectors import Detector
from rl_det.losses.advantages import Advantage
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.policies.select import SelectPolicy
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.training.loop import fit
from rl_det.training.loop_config import LoopConfig


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


@pytest.mark.parametrize("advantage", ["leave_one_out", "group"])
def test_ppo_finds_it_by_the_reward_of_the_whole_image_where_it_is_asked_to(advantage: Advantage) -> None:
    assert learnt_by_ppo(RescoreDetectionsVector, seed=0, num_updates=150, advantage=advantage) > LEARNT


def test_ppo_does_not_find_it_when_credit_goes_to_the_wrong_candidates() -> None:
    assert mean(learnt_by_ppo(ShuffledCredit, seed=seed) for seed in range(3)) < NOT_LEARNT


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


def test_a_reward_that_is_always_0_is_said_to_teach_nothing() -> None:
    detector, envs = made(NothingToEarn, 0)
    learner = PpoLearner(
        RescorePolicy(detector, sigma=0.5), envs, PPO(policy="rescore"), **chance_and_validation(detector, 0)
    )
    ending = fit(learner, LoopConfig(num_updates=50, learning_rate=2e-3, validate_every=2), name="ppo")
    assert (ending.reason, ending.update) == ("nothing to learn", 2)
