"""Agents through Gymnasium's vector wrappers: what they may do, what they may not, and that idle ones change nothing."""

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from contract.agents import TASKS
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.wrappers import vector
from learning.toy import NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.refine_boxes import RefineBoxesVector
from rl_det_envs.rescore_detections import RescoreDetectionsVector
from rl_det_envs.torch_to_numpy import TorchToNumpy
from strategies.resuming import INPUT_SIZE, outcome
from strategies.scenes import shipped as small
from strategies.scenes import train_data
from unchecked import unchecked

from rl_det.errors import UserError
from rl_det.policies.rescore import RescorePolicy
from rl_det.strategies import ppo, reinforce
from rl_det.strategies.from_reward import usable
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.strategies.reinforce import Reinforce, ReinforceLearner
from rl_det.training.loop import FitRun
from rl_det.training.loop_config import LoopConfig

AGENTS: dict[str, Any] = {"ppo": (PpoLearner, PPO), "reinforce": (ReinforceLearner, Reinforce)}
RESCORE, REFINE = "rl_det/RescoreDetections-v0", "rl_det/RefineBoxes-v0"
IDLE: dict[str, Callable[[Any], Any]] = {
    "none": lambda envs: envs,
    "TorchToNumpy": TorchToNumpy,
    "RecordEpisodeStatistics": lambda envs: vector.RecordEpisodeStatistics(TorchToNumpy(envs)),
    "DictInfoToList": lambda envs: vector.DictInfoToList(TorchToNumpy(envs)),
}


def taught(
    agent: str, env_id: str, wrap: Callable[[Any], Any], options: dict[str, Any], **settings: Any
) -> list[float]:
    """The numbers of what is trained after two updates."""
    torch.manual_seed(0)
    task = TASKS[env_id]
    detector = task.detector()
    actor, envs = task.actor(detector), wrap(task.environment(detector, **options))
    learner_class, config_class = AGENTS[agent]
    config = config_class(policy="refine" if env_id == REFINE else "rescore", **settings)
    learner = learner_class(actor, envs, config, generator=torch.Generator().manual_seed(0), validate=lambda: 0.0)
    run = FitRun(learner, LoopConfig(num_updates=2, learning_rate=0.05), agent)
    for number in (1, 2):
        learner.update(number, run.descent)
    return torch.cat([own.detach().flatten() for own in actor.trainable.parameters()]).tolist()


@pytest.mark.parametrize("env_id", [RESCORE, REFINE])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_wrapper_that_changes_nothing_changes_nothing(agent: str, env_id: str) -> None:
    expected = taught(agent, env_id, IDLE["none"], {})
    for name, wrap in IDLE.items():
        assert taught(agent, env_id, wrap, {}) == expected, name


def test_gymnasiums_own_conversion_changes_nothing_either() -> None:
    pytest.importorskip("array_api_compat", reason="array-api-compat is not installed, which ArrayConversion needs")

    def wrap(envs: Any) -> Any:
        return vector.RecordEpisodeStatistics(vector.ArrayConversion(envs, env_xp=torch, target_xp=np))

    assert taught("ppo", RESCORE, wrap, {}) == taught("ppo", RESCORE, IDLE["none"], {})


@pytest.mark.parametrize("agent", AGENTS)
def test_changed_rewards_have_no_credit_and_teach_by_leave_one_out(agent: str) -> None:
    def doubled(envs: Any) -> Any:
        return vector.TransformReward(envs, lambda reward: reward**3)

    with pytest.raises(UserError, match="or a wrapper changes its rewards; take advantage='leave_one_out'") as refused:
        taught(agent, RESCORE, doubled, {})
    assert "\n" not in str(refused.value)
    taught_by_own = taught(agent, RESCORE, IDLE["none"], {"credit": False}, advantage="leave_one_out")
    assert taught(agent, RESCORE, doubled, {"credit": False}, advantage="leave_one_out") != taught_by_own


class AtTheSecondStep(VectorWrapper):
    """It halves the rewards of one step, as no wrapper of Gymnasium's that is known to change rewards."""

    steps = 0

    def step(self, actions: Any) -> Any:
        observation, reward, *rest = self.env.step(actions)
        self.steps += 1
        return observation, reward * (0.5 if self.steps == 2 else 1.0), *rest


@pytest.mark.parametrize("agent", AGENTS)
def test_rewards_that_another_wrapper_changes_in_a_later_step_end_the_run_in_one_sentence(agent: str) -> None:
    with pytest.raises(UserError, match="needs the credit of these rewards, and the environment gives none") as refused:
        taught(agent, RESCORE, AtTheSecondStep, {})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrapper", [lambda envs: vector.ClipReward(envs, -1.0, 1.0), vector.NormalizeReward])
def test_wrappers_that_are_there_to_change_rewards_are_refused_with_credit_at_the_door(wrapper: Any) -> None:
    with pytest.raises(UserError, match="or a wrapper changes its rewards"):
        usable(wrapper(TorchToNumpy(vectors())), "counterfactual", 1.0)
    usable(wrapper(TorchToNumpy(vectors())), "leave_one_out", 1.0)


def vectors(**options: Any) -> Any:
    return RescoreDetectionsVector(8, detector=ToyDetector(), dataset=toy_data(0), num_candidates=NUM_PROPOSALS,
                                   samples_per_image=options.pop("samples_per_image", 4), **options)  # fmt: skip


WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "action space": (
        lambda: vector.RescaleAction(TorchToNumpy(vectors()), np.float32(0), np.float32(1)), {}, "changed the action space"
    ),
    "observation": (lambda: vector.FilterObservation(TorchToNumpy(vectors()), ["logits"]), {}, "taken some away"),
    "flat": (lambda: vector.FlattenObservation(TorchToNumpy(vectors())), {}, "taken some away"),
    "same step": (lambda: TorchToNumpy(vectors(autoreset_mode=AutoresetMode.SAME_STEP)), {}, "DISABLED"),
    "single": (lambda: gymnasium.make(RESCORE, num_candidates=8), {}, "vector environment of rl_det"),
    "sync": (
        lambda: gymnasium.make_vec(RESCORE, num_envs=2, vectorization_mode="sync", num_candidates=8), {},
        "vector environment of rl_det",
    ),
    "wrapped sync": (
        lambda: vector.RecordEpisodeStatistics(gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")),
        {}, "vector environment of rl_det",
    ),
    "plain": (lambda: gymnasium.make("CartPole-v1"), {}, "vector environment of rl_det"),
    "no credit": (lambda: vectors(credit=False), {}, "needs credit"),
    "no samples": (lambda: vectors(samples_per_image=1), {"advantage": "leave_one_out"}, "samples_per_image"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("agent", AGENTS)
def test_environments_that_cannot_teach_are_refused_in_one_sentence(agent: str, case: str) -> None:
    make, settings, message = WRONG[case]
    learner_class, config_class = AGENTS[agent]
    envs, policy = make(), RescorePolicy(ToyDetector(), sigma=0.5)
    config = config_class(policy="rescore", **settings)

    def update() -> None:
        learner = learner_class(policy, envs, config, generator=torch.Generator().manual_seed(0), validate=lambda: 0.0)
        learner.update(1, FitRun(learner, LoopConfig(num_updates=1, learning_rate=0.05), agent).descent)

    with pytest.raises(UserError, match=message) as refused:
        update()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_discount_in_episodes_of_one_step_is_refused(agent: str) -> None:
    learner_class, config_class = AGENTS[agent]
    policy, generator = RescorePolicy(ToyDetector(), sigma=0.5), torch.Generator()
    with pytest.raises(ValueError, match="gamma does nothing in an episode of one step"):
        config_class(policy="rescore", gamma=0.9)
    with pytest.raises(ValueError, match="gamma does nothing in an episode of one step"):
        learner_class(policy, vectors(), config_class(policy="refine", gamma=0.9), generator=generator, validate=float)
    assert RefineBoxesVector.takes_baseline is False


def test_the_steps_of_an_episode_may_show_different_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an episode that has ended shows none any more."""
    counts = itertools.cycle((2, 3))
    for strategy in (reinforce, ppo):
        monkeypatch.setattr(strategy, "class_shifts", lambda *_: torch.zeros(next(counts), requires_grad=True))
    for agent in AGENTS:
        assert np.isfinite(taught(agent, REFINE, IDLE["none"], {})).all()


def test_what_is_no_wrapper_is_refused_at_once() -> None:
    with unchecked(), pytest.raises(UserError, match="wrap must be a function that wraps an environment; got 3"):
        PPO(wrap=3)  # type: ignore[arg-type]


def test_a_strategy_with_an_idle_wrapper_tunes_as_it_does_without() -> None:
    """PPO(wrap=...), as `finetune` runs it, and as the page on environments writes it."""
    data, found = train_data(small(INPUT_SIZE)), []
    for wrap in (None, vector.RecordEpisodeStatistics):
        strategy = PPO(begin="warm_start", samples_per_image=2, num_candidates=12, context_candidates=8, wrap=wrap)
        found.append(outcome(strategy, data))
    assert found[0].ending == found[1].ending
    assert found[0].lines == found[1].lines
    for part, values in found[0].weights.items():
        assert torch.equal(values, found[1].weights[part]), part
