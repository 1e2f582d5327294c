"""Collect rollouts: K samples of each of B images, their advantages, and the graph from which they were drawn.

The head is the expensive part of a step, so it runs once. The environment shows candidates from the same output that
the policy uses, and the first gradient step goes back through the distribution from which the actions were drawn. Only
further epochs, for which the weights have changed, run the head again.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium
import rl_det_envs  # noqa: F401  (registers the environments)
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.candidates import Observation
from rl_det.losses.advantages import Advantage, candidate_advantages
from rl_det.policies.build import POLICIES, PolicyName
from rl_det.policies.distributions import Distribution
from rl_det.policies.policy import Policy
from rl_det.rewards import Reward
from rl_det.strategies.strategy import Task
from rl_det.types import Encoded, HeadOutput


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """K samples of each of B images, and their advantages.

    `output` and `distribution` are the head's and the policy's at the time of sampling, with a graph for one backward
    pass. `indices` are the images' positions in the data set.
    """

    observation: Observation
    encoded: Encoded
    indices: list[int]
    output: HeadOutput
    distribution: Distribution
    action: Float[Tensor, "B K N *numbers"]
    log_prob: Float[Tensor, "B K N *F"]
    advantage: Float[Tensor, "B K N *F"]
    mask: Bool[Tensor, "B K N"]
    reward: Float[Tensor, "B K"]

    @property
    def signal(self) -> float:
        """The mean absolute advantage: 0 if there is nothing to learn."""
        return float(self.advantage.abs().mean())


@runtime_checkable
class Paid(Protocol):
    """The settings of a strategy that learns from a reward in its policy's environment."""

    @property
    def policy(self) -> PolicyName: ...

    @property
    def reward(self) -> str | Reward: ...

    @property
    def advantage(self) -> Advantage: ...

    @property
    def samples_per_image(self) -> int: ...

    @property
    def num_candidates(self) -> int: ...

    @property
    def context_candidates(self) -> int: ...


def make_environment(config: Paid, policy: Policy, task: Task) -> Any:
    """The policy's environment on the training images, seeded, with `samples_per_image` samples of each image of a batch.

    It gives credit if the advantage is each candidate's own.
    """
    envs = gymnasium.make_vec(
        POLICIES[config.policy].environment,
        num_envs=task.batch_size * config.samples_per_image,
        vectorization_mode="vector_entry_point",
        detector=policy.detector,
        dataset=task.train,
        num_candidates=config.num_candidates,
        context_candidates=config.context_candidates,
        samples_per_image=config.samples_per_image,
        reward=config.reward,
        credit=config.advantage == "counterfactual",
        device=policy.detector.device,
    )
    envs.reset(seed=task.seed)
    return envs


def collect(
    policy: Policy,
    envs: VectorEnv[Any, Any, Any],
    generator: torch.Generator,
    advantage: Advantage = "counterfactual",
) -> Rollout:
    """Run one episode in every sub-environment; each run of K consecutive ones shows the same image."""
    shown, info = envs.reset(options={"with_graph": True})
    num_samples: int = info["samples_per_image"]
    observation: Observation = {name: values[::num_samples] for name, values in shown.items()}  # type: ignore[assignment]
    own = envs.unwrapped.detector is policy.detector  # type: ignore[attr-defined]
    output = info["output"] if own else policy.detector.head(info["encoded"])
    distribution = policy.distribution(observation, output)
    with torch.no_grad():
        action = distribution.sample(num_samples, generator)
        log_prob = distribution.log_prob(action)
    envs.unwrapped.set_baseline(distribution.greedy().repeat_interleave(num_samples, 0))  # type: ignore[attr-defined]
    _, reward, _, _, outcome = envs.step(action.flatten(0, 1))
    mask = observation["mask"][:, None].expand(-1, num_samples, -1)
    reward = torch.as_tensor(reward).unflatten(0, (-1, num_samples))
    return Rollout(
        observation=observation,
        encoded=info["encoded"],
        indices=list(info["indices"]),
        output=output,
        distribution=distribution,
        action=action,
        log_prob=log_prob,
        advantage=candidate_advantages(reward, outcome.get("credit"), log_prob, mask, advantage),
        mask=mask,
        reward=reward,
    )
