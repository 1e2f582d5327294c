"""REINFORCE on a toy detector whose best ranking is known: it finds it, unless credit goes to the wrong candidates."""

from statistics import mean

from learning.ranking import (
    LEARNT,
    NOT_LEARNT,
    NothingToEarn,
    ShuffledCredit,
    chance_and_validation,
    made,
    validation_ap,
)
from rl_det_envs.rescore_detections import RescoreDetectionsVector

from rl_det.losses.advantages import Advantage
from rl_det.policies.rescore import RescorePolicy
from rl_det.strategies.reinforce import Reinforce, ReinforceLearner
from rl_det.training.loop import fit
from rl_det.training.loop_config import LoopConfig


def learnt_by_reinforce(
    env: type, seed: int, *, num_updates: int = 100, advantage: Advantage = "counterfactual"
) -> float:
    detector, envs = made(env, seed)
    config = Reinforce(policy="rescore", mean_shift_penalty=0.0, advantage=advantage)
    policy = RescorePolicy(detector, sigma=0.5)
    learner = ReinforceLearner(policy, envs, config, **chance_and_validation(detector, seed))
    fit(learner, LoopConfig(num_updates=num_updates, learning_rate=0.05, validate_every=num_updates), name="reinforce")
    return validation_ap(detector)


def test_reinforce_finds_the_best_ranking_by_credit() -> None:
    assert learnt_by_reinforce(RescoreDetectionsVector, 0) > LEARNT


def test_reinforce_finds_it_by_the_reward_of_the_whole_image_too() -> None:
    assert learnt_by_reinforce(RescoreDetectionsVector, 0, num_updates=200, advantage="leave_one_out") > LEARNT


def test_reinforce_does_not_find_it_when_credit_goes_to_the_wrong_candidates() -> None:
    assert mean(learnt_by_reinforce(ShuffledCredit, seed) for seed in range(3)) < NOT_LEARNT


def test_a_reward_that_is_always_0_is_said_to_teach_nothing() -> None:
    detector, envs = made(NothingToEarn, 0)
    learner = ReinforceLearner(
        RescorePolicy(detector, sigma=0.5), envs, Reinforce(policy="rescore"), **chance_and_validation(detector, 0)
    )
    ending = fit(learner, LoopConfig(num_updates=50, learning_rate=2e-3, validate_every=2), name="reinforce")
    assert (ending.reason, ending.update) == ("nothing to learn", 2)
