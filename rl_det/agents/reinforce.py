"""REINFORCE for a detector's head: a policy and an environment of candidates -> the policy, tuned for the reward.

The score-function estimator (Williams 1992) for episodes of one step. How we differ from the paper:

1. The baseline of a sample is the mean reward of the other samples of its image (leave-one-out, Kool et al. 2019), or,
   better, each candidate has its own: `advantage="counterfactual"` takes the exact credit in `info["credit"]`, which
   removes from the gradient the noise of all the other candidates.
2. One gradient step per rollout, so nothing is clipped; the supervised loss and the anchor on the common shift of all
   logits are as in `ppo.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor

from rl_det.agents.rollouts import collect
from rl_det.losses.advantages import Advantage, factors
from rl_det.losses.policy_gradient import masked_mean, reinforce_loss
from rl_det.policies.policy import Policy
from rl_det.training.early_stopping import EarlyStopping
from rl_det.training.schedules import warm_cosine
from rl_det.types import Encoded, HeadOutput

Supervised = Callable[[Any, Encoded, HeadOutput], Float[Tensor, ""]]
"""(the images' indices in the data set, their encodings, the head's present output) -> the detector's own loss on them."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How REINFORCE learns."""

    num_updates: int = 600
    """Rollouts to collect and learn from."""
    advantage: Advantage = "counterfactual"
    """A candidate's advantage: its own credit (counterfactual), or its image's reward (leave_one_out or group, GRPO's)."""
    learning_rate: float = 1e-3
    """The head's peak rate of AdamW: a short linear warm-up, then a cosine to 0."""
    supervised_weight: float = 1.0
    """Weight of the detector's own supervised loss."""
    mean_shift_penalty: float = 0.1
    """Weight of the squared mean shift of all logits."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    validate_every: int = 50
    """Updates between two validations."""
    patience: int = 100
    """Validations without a better AP before training stops."""
    collapse_margin: float = 0.03
    """Training stops when validation AP falls this far under the warm start's."""

    def __post_init__(self) -> None:
        for name in ("num_updates", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")


def learn(
    policy: Policy,
    envs: VectorEnv[Any, Any, Any],
    optimizer: torch.optim.Optimizer,
    supervised: Supervised | None,
    config: Config,
    generator: torch.Generator,
) -> dict[str, float]:
    """Collect one episode in every sub-environment and take one gradient step."""
    rollout = collect(policy, envs, generator, config.advantage)
    log_prob, mask = rollout.distribution.log_prob(rollout.action), rollout.mask
    mean_shift = masked_mean(rollout.distribution.shift(), mask[:, 0])
    losses = [reinforce_loss(*own, mask) for own in zip(factors(log_prob), factors(rollout.advantage), strict=True)]
    loss = torch.stack(losses).sum()
    metrics = {"reward": float(rollout.reward.mean()), "mean_shift": float(mean_shift.detach())}
    loss = loss + config.mean_shift_penalty * mean_shift.square()
    if supervised is not None:
        taught = supervised(rollout.indices, rollout.encoded, rollout.output)
        loss = loss + config.supervised_weight * taught
        metrics["supervised"] = float(taught.detach())
    optimizer.zero_grad()
    loss.backward()
    metrics["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm))
    optimizer.step()
    return metrics


def train(
    policy: Policy,
    envs: VectorEnv[Any, Any, Any],
    config: Config,
    *,
    generator: torch.Generator,
    validate: Callable[[], float],
    supervised: Supervised | None = None,
    on_update: Callable[[int, dict[str, float]], None] = lambda update, metrics: None,
) -> float:
    """Tune the policy in place and leave it at its best validation AP, which is returned.

    The warm start is the first candidate for the best, so the policy never ends below it on validation.
    """
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = warm_cosine(optimizer, config.num_updates)
    stopping = EarlyStopping(patience=config.patience)
    warm_start_ap = validate()
    stopping.improved(warm_start_ap)
    best = policy.state_dict()
    for number in range(1, config.num_updates + 1):
        metrics = learn(policy, envs, optimizer, supervised, config, generator)
        schedule.step()
        if number % config.validate_every == 0 or number == config.num_updates:
            metrics["val_AP"] = validate()
            if stopping.improved(metrics["val_AP"]):
                best = policy.state_dict()
        on_update(number, metrics)
        if stopping.exhausted or metrics.get("val_AP", warm_start_ap) < warm_start_ap - config.collapse_margin:
            break
    policy.load_state_dict(best)
    return stopping.best
