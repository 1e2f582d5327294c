"""PPO for a detector's head: a policy and an environment of candidates -> the policy, tuned for the reward.

Proximal policy optimisation (Schulman et al. 2017) for episodes of one step, in which many candidates act at once.
How we differ from the paper:

1. The ratio and its clip are per candidate. An image's ratio would be a product of N factors, which explodes.
2. The advantage of a candidate is its own credit, the exact counterfactual that the environment gives in
   `info["credit"]`: what its action alone would change. With an environment that gives none, it is the image's
   leave-one-out reward; or, if asked for, GRPO's over the group of the image's samples. No value network.
3. K samples of each image, in antithetic pairs, share one forward pass, and the first epoch's gradient goes back through
   that very pass; the frozen part of the detector never runs.
4. The detector's own supervised loss may be mixed in (as the pretraining loss is in Ouyang et al. 2022, "PPO-ptx"): boxes
   and scores share a trunk, and the reward alone would let the boxes drift.
5. Ranks feel neither a common shift of all logits nor a common scale. So the squared mean shift has a penalty
   (`mean_shift_penalty`), and so has what a module adds to the head's logits (`residual_penalty`).
6. A candidate may act by several independent factors, as its logit's shift and its box's move. Each has its own credit,
   ratio and clip, and their losses are summed (`factor_weights`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor

from rl_det.agents.rollouts import Rollout, collect
from rl_det.losses.advantages import Advantage, factors
from rl_det.losses.policy_gradient import approximate_kl, clipped_loss, masked_mean
from rl_det.policies.distributions import GaussianAdjustments
from rl_det.policies.policy import Policy
from rl_det.training.early_stopping import EarlyStopping
from rl_det.training.schedules import warm_cosine
from rl_det.types import Encoded, HeadOutput

Supervised = Callable[[Any, Encoded, HeadOutput], Float[Tensor, ""]]
"""(the images' indices in the data set, their encodings, the head's present output) -> the detector's own loss on them."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How PPO learns."""

    num_updates: int = 1200
    """Rollouts to collect and learn from."""
    num_epochs: int = 2
    """Passes over each rollout; they are cheap, as features are cached."""
    advantage: Advantage = "counterfactual"
    """A candidate's advantage: its own credit (counterfactual), or its image's reward (leave_one_out or group, GRPO's)."""
    learning_rate: float = 2e-3
    """AdamW's peak rate: a short linear warm-up, then a cosine to 0."""
    clip: float = 0.2
    """How far a candidate's probability ratio may leave 1 and still be rewarded for it."""
    target_kl: float = 0.05
    """A rollout's remaining epochs are skipped once the policy is this far, in nats a candidate, from where it sampled; of
    several factors the first one counts."""
    kl_weight: float = 0.0
    """Weight of the KL to the warm start; it limits damage and also pins a bad start."""
    supervised_weight: float = 1.0
    """Weight of the detector's own supervised loss."""
    mean_shift_penalty: float = 0.1
    """Weight of the squared mean shift of all logits."""
    residual_penalty: float = 0.1
    """Weight of the mean square of what a module adds to the head's own logits, where the policy has one."""
    factor_weights: tuple[float, ...] = (1.0, 4.0)
    """Weights of the losses of a candidate's factors, the shift of its logit and the move of its box."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    validate_every: int = 50
    """Updates between two validations."""
    patience: int = 100
    """Validations without a better AP before training stops."""
    collapse_margin: float = 0.03
    """Training stops when validation AP falls this far under the warm start's."""

    def __post_init__(self) -> None:
        for name in ("num_updates", "num_epochs", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1; got {self.clip}; 0.2 is usual")


def update(
    policy: Policy,
    reference: Policy | None,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    supervised: Supervised | None,
    config: Config,
) -> dict[str, float]:
    """Several epochs of clipped gradient steps on one fresh rollout; says what happened in them."""
    metrics: dict[str, float] = {"reward": float(rollout.reward.mean())}
    for epoch in range(config.num_epochs):
        output, distribution = rollout.output, rollout.distribution
        if epoch:  # the weights have moved since the rollout
            output = policy.detector.head(rollout.encoded)
            distribution = policy.distribution(rollout.observation, output)
        log_ratio = distribution.log_prob(rollout.action) - rollout.log_prob
        ratios, advantages = factors(log_ratio), factors(rollout.advantage)
        moved = float(approximate_kl(ratios[0].detach(), rollout.mask))
        metrics |= {"kl_old": moved, "epochs": float(epoch)}
        if epoch and moved > config.target_kl:
            break
        losses = [
            clipped_loss(ratio, advantage, rollout.mask, clip=config.clip)
            for ratio, advantage in zip(ratios, advantages, strict=True)
        ]
        surrogate = torch.stack([w * own for w, own in zip(config.factor_weights, losses, strict=False)]).sum()
        mean_shift = masked_mean(distribution.shift(), rollout.mask[:, 0])
        loss = surrogate + config.mean_shift_penalty * mean_shift.square()
        if isinstance(distribution, GaussianAdjustments):
            residual = masked_mean(distribution.residual.square(), rollout.mask[:, 0])
            loss = loss + config.residual_penalty * residual
            metrics["residual"] = float(residual.detach())
        metrics |= {"surrogate": float(surrogate.detach()), "mean_shift": float(mean_shift.detach())}
        if supervised is not None:
            taught = supervised(rollout.indices, rollout.encoded, output)
            loss = loss + config.supervised_weight * taught
            metrics["supervised"] = float(taught.detach())
        if reference is not None:
            with torch.no_grad():
                warm = reference.distribution(rollout.observation, reference.detector.head(rollout.encoded))
            distance = masked_mean(distribution.kl(warm), rollout.mask[:, 0])
            loss = loss + config.kl_weight * distance
            metrics["kl_warm_start"] = float(distance.detach())
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        optimizer.step()
        metrics |= {"grad_norm": float(norm), "epochs": epoch + 1.0}
    return metrics


def train(
    policy: Policy,
    envs: VectorEnv[Any, Any, Any],
    config: Config,
    *,
    generator: torch.Generator,
    validate: Callable[[], float],
    supervised: Supervised | None = None,
    reference: Policy | None = None,
    on_update: Callable[[int, dict[str, float]], None] = lambda update, metrics: None,
) -> float:
    """Tune the policy in place and leave it at its best validation AP, which is returned.

    The warm start is the first candidate for the best, so the policy never ends below it on validation. `reference` is
    the warm start as a policy of its own, wanted where `kl_weight` is positive.
    """
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = warm_cosine(optimizer, config.num_updates)
    stopping = EarlyStopping(patience=config.patience)
    warm_start_ap = validate()
    stopping.improved(warm_start_ap)
    best = policy.state_dict()
    for number in range(1, config.num_updates + 1):
        rollout = collect(policy, envs, generator, config.advantage)
        metrics = update(policy, reference, optimizer, rollout, supervised, config)
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
