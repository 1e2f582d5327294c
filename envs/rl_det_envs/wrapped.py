"""An agent's way through Gymnasium's vector wrappers, and the door at which unusable environments are refused."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorRewardWrapper, VectorWrapper
from gymnasium.wrappers.vector import NormalizeReward
from torch import Tensor

from rl_det.errors import UserError
from rl_det_envs.agent import AgentEnvironment, Earned, Shown
from rl_det_envs.detector_environment import DetectorVectorEnv

OF_REWARDS = (VectorRewardWrapper, NormalizeReward)
"""Gymnasium's wrappers that are there to change rewards."""


class WrappedEnvironment:
    """An environment behind Gymnasium's vector wrappers: observations, rewards and ends are those that the wrappers give.

    Behind a wrapper that is there to change rewards there is no credit, which is of the unchanged rewards. Nor is there any of
    a step whose rewards another wrapper changed. Wrappers with a state of their own, such as a running mean, begin anew when a
    run is resumed.
    """

    def __init__(self, envs: VectorWrapper[Any, Any, Any], core: DetectorVectorEnv) -> None:
        self.envs, self.core = envs, core
        self.detector, self.samples_per_image, self.num_steps = core.detector, core.samples_per_image, core.num_steps
        self.action_scale, self.single_action_space = core.action_scale, core.single_action_space
        self.gives_credit = core.gives_credit and not any(isinstance(each, OF_REWARDS) for each in _wrappers(envs))
        self.takes_baseline = core.takes_baseline

    def show(self, *, seed: int | None = None, indices: Sequence[int] | None = None, with_graph: bool = False) -> Shown:
        """Reset through the wrappers."""
        self.core.with_graph = with_graph
        observation, _ = self.envs.reset(seed=seed, options=None if indices is None else {"indices": list(indices)})
        return replace(self.core.shown, observation=_like(observation, self.core.shown.observation))

    def image_names(self, indices: Sequence[int]) -> list[str]:
        """What a message calls these images."""
        return self.core.image_names(indices)

    def act(self, actions: Tensor, *, baseline: Tensor | None = None) -> Earned:
        """Step through the wrappers."""
        self.core.next_baseline = baseline
        observation, rewards, terminated, truncated, _ = self.envs.step(actions)
        earned = self.core.earned
        reward = torch.as_tensor(rewards).to(earned.reward)
        return replace(
            earned,
            observation=_like(observation, earned.observation),
            reward=reward,
            credit=earned.credit if self.gives_credit and torch.equal(reward, earned.reward) else None,
            terminated=torch.as_tensor(terminated).to(earned.terminated),
            truncated=torch.as_tensor(truncated).to(earned.truncated),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that determines the next images."""
        return self.core.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.core.load_state_dict(state)


def agent_environment(envs: Any) -> AgentEnvironment:
    """The environment as an agent meets it: one of rl_det in its vector form, itself or behind Gymnasium's vector wrappers.

    Raises UserError for all else, and for wrappers that change the action space or stand around an autoreset.
    """
    if not isinstance(envs, VectorWrapper):
        if isinstance(envs, AgentEnvironment):
            return envs
        raise UserError(
            "an agent needs a vector environment of rl_det, made by gymnasium.make_vec(..., "
            f"vectorization_mode='vector_entry_point'), itself or in Gymnasium's vector wrappers; got {envs}"
        )
    core: VectorEnv[Any, Any, Any] = envs.unwrapped
    if not isinstance(core, DetectorVectorEnv):
        raise UserError(f"the wrapped environment must be a vector environment of rl_det; got {core}")
    if core.autoreset_mode is not AutoresetMode.DISABLED:
        raise UserError(
            "an agent resets a wrapped environment itself: make it with autoreset DISABLED, its default; "
            f"got {core.autoreset_mode.name}"
        )
    if envs.single_action_space != core.single_action_space:
        raise UserError(
            f"a policy acts in {core.single_action_space}; a wrapper has changed the action space to "
            f"{envs.single_action_space}"
        )
    return WrappedEnvironment(envs, core)


def _wrappers(envs: VectorEnv[Any, Any, Any]) -> Iterator[VectorWrapper[Any, Any, Any]]:
    """All wrappers around an environment, from the outermost on."""
    while isinstance(envs, VectorWrapper):
        yield envs
        envs = envs.env


def _like(given: Any, own: Any) -> Any:
    """What the wrappers show, as tensors like the environment's own; UserError if a part is missing."""
    if not isinstance(own, dict):
        return torch.as_tensor(given).to(own)
    if not isinstance(given, dict) or own.keys() - given.keys():
        raise UserError(f"a policy needs the observation's parts {sorted(own)}; a wrapper has taken some away")
    return {name: torch.as_tensor(given[name]).to(values) for name, values in own.items()}
