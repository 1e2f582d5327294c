"""Collect rollouts: K samples of each of B images, their advantages, and the graph from which they were drawn.

The head is the expensive part of a step, so it runs once. The environment shows candidates from the same output that
the policy uses, and the first gradient step goes back through the distribution from which the actions were drawn. Only
further epochs, for which the weights have changed, run the head again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium
import torch
from jaxtyping import Bool, Float, Int
from rl_det_envs.agent import AgentEnvironment, Earned
from torch import Tensor, nn

from rl_det.detectors import Detector
from rl_det.detectors.divided import said_by
from rl_det.errors import NotFiniteError, UserError
from rl_det.losses.advantages import Advantage, candidate_advantages
from rl_det.losses.policy_gradient import masked_mean
from rl_det.policies.distributions import BernoulliGates, Distribution, Draws
from rl_det.types import Encoded, HeadOutput

DRAWS: dict[Advantage, Draws] = {
    "counterfactual": "stratified",
    "leave_one_out": "antithetic",
    "group": "antithetic",
}
"""How samples are drawn for each advantage. A candidate's own credit does not depend on its image's other samples, so strata
keep it unbiased and quiet it. A mean over the other samples is no baseline if they lie where this one does not: mirrored
pairs only change its scale, strata would change more. Of gates, pairs would change its direction (`draws_for`)."""


@runtime_checkable
class Actor(Protocol):
    """What an agent trains: a module, and a distribution over actions, for what an environment shows.

    `rl_det.policies.policy.Policy` is one, whose module is a detector's head.
    """

    @property
    def trainable(self) -> nn.Module:
        """All that is trained, as one module."""
        ...

    def distribution(self, observation: Any, output: Any) -> Distribution:
        """The distribution of the actions, one row for each row of the observation; `output` is the head's, if there is one."""
        ...

    def copy(self) -> "Actor":
        """A copy whose trained part is its own."""
        ...


@dataclass(frozen=True, kw_only=True)
class Move:
    """One step of all episodes, in R rows of S samples each: what was seen, drawn and earned.

    In the first step, a row is an image (R = B), whose K samples share its observation. In later steps, each sample has
    its own (R = B K, S = 1). `images` is each row's image. `running` says which episodes had not ended before.
    """

    observation: Any
    images: Int[Tensor, " R"]
    distribution: Distribution
    action: Float[Tensor, "R S N *numbers"]
    log_prob: Float[Tensor, "R S N *F"]
    running: Bool[Tensor, "B K"]
    earned: Earned

    @property
    def mask(self) -> Bool[Tensor, "R S N"]:
        """The actions that count: not those of padding, and not those of episodes that had ended."""
        running = self.running.view(len(self.images), -1, 1)
        real = self.observation["mask"][:, None] if isinstance(self.observation, dict) else torch.ones_like(running)
        mask: Tensor = running & real
        return mask.expand(self.log_prob.shape[:3])

    @property
    def num_factors(self) -> int:
        """F, the number of independent factors of an action."""
        return 1 if self.log_prob.ndim == 3 else int(self.log_prob.shape[-1])


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """An episode of K samples of each of B images: its moves, step by step, their advantages, and its return `reward`.

    If candidates act, `encoded` are the images' encodings, and `output` is the head's at the time of sampling, with a
    graph for one backward pass, as the moves' distributions have. `indices` are the images' positions in the data set.
    """

    moves: list[Move]
    advantages: list[Tensor]
    """Of each move, [R, S, N, *F]."""
    indices: list[int]
    encoded: Encoded | None
    output: HeadOutput | None
    reward: Float[Tensor, "B K"]

    @property
    def signal(self) -> float:
        """The mean absolute advantage, padding counted as 0: 0 if there is nothing to learn."""
        return sum(float(own.abs().mean()) for own in self.advantages) / len(self.advantages)

    def distributions(self, policy: Actor, output: HeadOutput | None) -> list[Distribution]:
        """The policy's present distributions of all moves, given the head's present output."""
        return [policy.distribution(move.observation, of_rows(output, move.images)) for move in self.moves]


def draws_for(advantage: Advantage, distribution: Distribution) -> Draws:
    """How this advantage's samples of this distribution are drawn.

    A gate's mirrored pair has the other value, unless both have the likelier one. A baseline of other samples would then
    weigh the gates by their probabilities: up to twice as much as it should, and each its own way.
    """
    if advantage != "counterfactual" and isinstance(distribution, BernoulliGates):
        return "independent"
    return DRAWS[advantage]


def collect(
    policy: Actor,
    envs: AgentEnvironment,
    generator: torch.Generator,
    advantage: Advantage = "counterfactual",
    gamma: float = 1.0,
) -> Rollout:
    """Run one episode in every sub-environment; each run of K consecutive ones shows the same image."""
    shown = envs.show(with_graph=True)
    shares_head = getattr(policy, "detector", envs.detector) is envs.detector
    output = shown.output if shares_head else head_output(policy, shown.encoded)
    observation = every(envs.samples_per_image, shown.observation)
    running = torch.ones(len(shown.indices), envs.samples_per_image, dtype=torch.bool, device=envs.detector.device)
    moves: list[Move] = []
    while len(moves) < envs.num_steps and running.any():
        move = moved_once(policy, envs, observation, output, running, generator, advantage)
        moves.append(move)
        observation, running = move.earned.observation, running & ~move.earned.ended.view_as(running)
    alive = torch.stack([move.running for move in moves])
    reward = torch.stack([move.earned.reward.view_as(running) for move in moves]) * alive
    mask, log_prob = (
        by_sample(parts, len(running)) for parts in zip(*((m.mask, m.log_prob) for m in moves), strict=True)
    )
    every_advantage = candidate_advantages(reward, credit_of(moves, alive), log_prob, mask, advantage, gamma)
    return Rollout(
        moves=moves,
        advantages=[own.view_as(move.log_prob) for own, move in zip(every_advantage, moves, strict=True)],
        indices=shown.indices,
        encoded=shown.encoded,
        output=output,
        reward=reward.sum(0),
    )


def moved_once(
    policy: Actor,
    envs: AgentEnvironment,
    observation: Any,
    output: HeadOutput | None,
    running: Bool[Tensor, "B K"],
    generator: torch.Generator,
    advantage: Advantage,
) -> Move:
    """Draw an action for every sub-environment, and make the step; `observation` has one row for each draw of samples."""
    num_rows = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
    share = running.numel() // num_rows
    images = torch.arange(len(running), device=running.device).repeat_interleave(num_rows // len(running))
    distribution = policy.distribution(observation, of_rows(output, images))
    with torch.no_grad():
        action = distribution.sample(share, generator, draws_for(advantage, distribution))
        log_prob = distribution.log_prob(action)
    if not action.isfinite().all():
        raise NotFiniteError("the policy's actions are NaN or infinite")
    check_fits(distribution, action, envs)
    baseline = distribution.greedy().repeat_interleave(share, 0) if envs.takes_baseline else None
    return Move(
        observation=observation,
        images=images,
        distribution=distribution,
        action=action,
        log_prob=log_prob,
        running=running,
        earned=envs.act(in_range(action, envs), baseline=None if baseline is None else in_range(baseline, envs)),
    )


def in_range(action: Float[Tensor, " R *more"], envs: AgentEnvironment) -> Float[Tensor, " B *one"]:
    """The nearest actions that the environment takes, one for each sub-environment.

    Only the environment's are cut off: an action's density is that of the number drawn. With the border's density, the
    gradient near the border would be biased.
    """
    space = envs.single_action_space
    limits = (
        (float(space.low.min()), float(space.high.max())) if isinstance(space, gymnasium.spaces.Box) else (0.0, 1.0)
    )
    return action.reshape(-1, *(space.shape or ())).clamp(*limits)


def head_output(policy: Actor, encoded: Encoded | None) -> HeadOutput | None:
    """The output of the policy's own head for these encodings; None where no candidates act."""
    own: Detector | None = getattr(policy, "detector", None)
    return None if own is None or encoded is None else said_by(own, encoded)


def every(number: int, observation: Any) -> Any:
    """Every `number`-th row of an observation."""
    if isinstance(observation, dict):
        return {name: values[::number] for name, values in observation.items()}
    return observation[::number]


def of_rows(output: HeadOutput | None, images: Int[Tensor, " R"]) -> HeadOutput | None:
    """The head's output for each row's image."""
    if output is None or len(images) == len(output.logits):  # a row is an image, in order
        return output
    return output.of_images(images)


def by_sample(steps: Sequence[Tensor], num_images: int) -> Tensor:
    """Each step's rows and samples [R, S, ...] as the samples of the images: [T, B, K, ...]."""
    return torch.stack([values.unflatten(0, (num_images, -1)).flatten(1, 2) for values in steps])


def credit_of(moves: list[Move], alive: Bool[Tensor, "T B K"]) -> Float[Tensor, "T B K N *F"] | None:
    """The credit of every step, 0 in episodes that had ended; None if a step gave none."""
    credits = [move.earned.credit for move in moves if move.earned.credit is not None]
    if len(credits) < len(moves):
        return None
    whole: Tensor = torch.stack(credits).unflatten(1, alive.shape[1:])
    counted: Tensor = whole * alive.view(*alive.shape, *[1] * (whole.ndim - 3))
    return counted


def check_fits(distribution: Distribution, action: Tensor, envs: AgentEnvironment) -> None:
    """Raise UserError if the policy's actions are not those of the environment."""
    space = envs.single_action_space
    if action[0, 0].numel() != math.prod(space.shape or ()):
        raise UserError(
            f"the policy acts in {tuple(action.shape[2:])} numbers, the environment in {space}; "
            "rl_det.policies.build.POLICIES names each policy's environment"
        )
    if distribution.action_scale != envs.action_scale:
        raise UserError(
            f"an action of 1 means {distribution.action_scale:g} to the policy, and {envs.action_scale:g} to the "
            "environment; leave action_scale at its default"
        )


def class_shifts(move: Move, distribution: Distribution, num_classes: int) -> Float[Tensor, " C"]:
    """The mean shift of the logits of each class that has candidates; of all actors where none has a class.

    A shift is what the policy and its module add to the logits that were shown. The head that shows them is the one that is
    trained, so what its weights have changed since the training began is not in it.
    """
    shift, real = distribution.shift(), move.mask.any(1)
    if not isinstance(move.observation, dict):
        return masked_mean(shift, real)[None]
    column = (move.observation["labels"] - 1).flatten()
    sums, counts = (
        values.new_zeros(num_classes).index_add(0, column, values.flatten())
        for values in (shift * real, real.to(shift.dtype))
    )
    present = counts > 0
    return sums[present] / counts[present] if present.any() else sums[:1]
