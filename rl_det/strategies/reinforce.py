"""REINFORCE for a detector's head: a policy and an environment of candidates -> the policy, tuned for the reward.

The score-function estimator (Williams 1992) for episodes of one step. How we differ from the paper:

1. The baseline of a sample is the mean reward of the other samples of its image (leave-one-out, Kool et al. 2019), or,
   better, each candidate has its own: `advantage="counterfactual"` takes the exact credit in `info["credit"]`, which removes
   from the gradient the noise of all the other candidates.
2. One gradient step per rollout, so nothing is clipped; the supervised loss and the price of a common shift of all logits are
   as in `ppo.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from rl_det.detectors import Detector
from rl_det.losses.advantages import Advantage, factors
from rl_det.losses.policy_gradient import masked_mean, reinforce_loss
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy
from rl_det.rewards import Reward, check_reward
from rl_det.strategies.rollouts import collect, make_environment
from rl_det.strategies.strategy import Task, given
from rl_det.strategies.teaching import Supervised, taught
from rl_det.training.descent import Descent
from rl_det.training.loop import Ending, LoopConfig


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """REINFORCE on the detector's head, paid in the metric itself."""

    name: str = "reinforce"
    """The row of the table."""
    policy: PolicyName = "voting"
    """What acts, as for PPO."""
    reward: Annotated[str | Reward, tyro.conf.arg(constructor=str, help_behavior_hint="(default: pool_ap)")] = "pool_ap"
    """What an action is paid in: pool_ap (the data set's mAP), or another name of `rl_det.rewards.REWARDS`, or an object."""
    advantage: Advantage = "counterfactual"
    """What a candidate's action is judged by: its own credit, or its image's reward, leave_one_out or group (GRPO)."""
    num_updates: int | None = None
    """Rollouts to collect and learn from; left out: so many that all strategies see as many images."""
    samples_per_image: int = 8
    """K: samples of each image of a rollout."""
    num_candidates: int = 96
    """Candidates of each image that act."""
    context_candidates: int = 160
    """The next candidates of each image: they do not act, but rank and suppress."""
    exploration: Exploration = field(default_factory=Exploration)
    """How widely the policy explores."""
    learning_rate: float | None = None
    """AdamW's peak rate; left out: that of the warm start's head."""
    supervised_weight: float = 1.0
    """Weight of the detector's own supervised loss."""
    mean_shift_penalty: float = 0.1
    """Weight of the squared mean shift of all logits."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    patience: int | None = None
    """Validations without a better AP before training ends; left out: never."""
    collapse_margin: float = 0.03
    """Training ends where validation AP falls this far under the start's."""

    def __post_init__(self) -> None:
        for name in ("samples_per_image", "num_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if isinstance(self.reward, str):
            check_reward(self.reward)
        self.loop(1, 1.0, 1)  # refuses what is wrong

    @property
    def trains(self) -> Literal["head"]:
        """The head, and the policy's module."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The policy at the warm start."""
        return build_policy(self.policy, detector, self.exploration)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Tune the policy in its own environment, by as many gradient steps as the control makes."""
        envs = make_environment(
            self.policy,
            policy,
            task,
            reward=self.reward,
            samples_per_image=self.samples_per_image,
            num_candidates=self.num_candidates,
            context_candidates=self.context_candidates,
            credit=self.advantage == "counterfactual",
        )
        learner = ReinforceLearner(
            policy,
            envs,
            self,
            generator=torch.Generator().manual_seed(task.seed),
            validate=lambda: task.validation_ap(policy),
            supervised=taught(None, policy, task) if self.supervised_weight else None,
        )
        return task.fit(learner, self.loop(task.num_steps, task.learning_rate, task.validate_every))

    def loop(self, num_updates: int, learning_rate: float, validate_every: int) -> LoopConfig:
        """The loop's part of the settings; number of updates and rate where they are left out."""
        return LoopConfig(
            num_updates=given(self.num_updates, num_updates),
            learning_rate=given(self.learning_rate, learning_rate),
            max_grad_norm=self.max_grad_norm,
            validate_every=validate_every,
            patience=self.patience,
            collapse_margin=self.collapse_margin,
        )


class ReinforceLearner:
    """Collects a rollout and makes one gradient step on it."""

    def __init__(
        self,
        policy: Policy,
        envs: Any,
        config: Reinforce,
        *,
        generator: torch.Generator,
        validate: Callable[[], float],
        supervised: Supervised | None = None,
    ) -> None:
        self.policy, self.envs, self.config, self.generator = policy, envs, config, generator
        self.validation_ap, self.supervised = validate, supervised

    @property
    def trainable(self) -> nn.Module:
        """The policy's."""
        return self.policy.trainable

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        """One episode in every sub-environment, and one gradient step."""
        config = self.config
        rollout = collect(self.policy, self.envs, self.generator, config.advantage)
        log_prob, mask = rollout.distribution.log_prob(rollout.action), rollout.mask
        shift = masked_mean(rollout.distribution.shift(), mask[:, 0])
        pairs = zip(factors(log_prob), factors(rollout.advantage), strict=True)
        loss = torch.stack([reinforce_loss(*own, mask) for own in pairs]).sum()
        metrics = {
            "reward": float(rollout.reward.mean()),
            "signal": rollout.signal,
            "mean_shift": float(shift.detach()),
        }
        loss = loss + config.mean_shift_penalty * shift.square()
        if self.supervised is not None:
            supervised = self.supervised(rollout.indices, rollout.encoded, rollout.output)
            loss = loss + config.supervised_weight * supervised
            metrics["supervised"] = float(supervised.detach())
        return {**metrics, "grad_norm": descent.step(loss)}

    def validate(self) -> dict[str, float]:
        """Validation mAP."""
        return {"AP": self.validation_ap()}

    def state_dict(self) -> dict[str, Any]:
        """What is drawn next: the actions' noise, and the environment's images."""
        return {"generator": self.generator.get_state(), "environment": self.envs.unwrapped.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a kept state."""
        self.generator.set_state(state["generator"])
        self.envs.unwrapped.load_state_dict(state["environment"])
