"""A policy and an environment -> K samples of each of B images, what they were worth, and the graph they were drawn with.

The head is the dear part of a step, so it runs once: the environment shows candidates by the very output that the policy
ranks by, and the first gradient step goes back through what the actions were drawn from. Only further epochs, for which
the weights have moved, ask the head again.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.candidates import Observation
from rl_det.losses.advantages import Advantage, candidate_advantages
from rl_det.policies.distributions import Distribution
from rl_det.policies.policy import Policy
from rl_det.types import Encoded, HeadOutput


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """K samples of each of B images, and what they were worth.

    `indices` are the images' positions in the data set. `output` and `distribution` are the head's and the policy's at
    the time, with a graph: good for one backward pass.
    """

    observation: Observation
    encoded: Encoded
    indices: Any
    output: HeadOutput
    distribution: Distribution
    action: Float[Tensor, "B K N *numbers"]
    log_prob: Float[Tensor, "B K N *F"]
    advantage: Float[Tensor, "B K N *F"]
    mask: Bool[Tensor, "B K N"]
    reward: Float[Tensor, "B K"]


def collect(
    policy: Policy,
    envs: VectorEnv[Any, Any, Any],
    generator: torch.Generator,
    advantage: Advantage = "counterfactual",
) -> Rollout:
    """One episode in every sub-environment; consecutive groups of K show the same image."""
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
        indices=info["indices"],
        output=output,
        distribution=distribution,
        action=action,
        log_prob=log_prob,
        advantage=candidate_advantages(reward, outcome.get("credit"), log_prob, mask, advantage),
        mask=mask,
        reward=reward,
    )
