"""REINFORCE for a detector's head: tune a policy in an environment of candidates, with the metric as the reward.

This is the score-function estimator (Williams 1992) for short episodes. We differ from the paper:

1. A sample's baseline is the mean reward of the other samples of its image (leave-one-out, Kool et al. 2019). Better,
   each candidate has its own: `advantage="counterfactual"` takes the exact credit, which removes
   the noise of all other candidates from the gradient.
2. There is one gradient step per rollout, so nothing is clipped. The supervised loss and the penalty of a common shift
   of all logits are as in `ppo.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.detectors import Detector
from rl_det.errors import naming
from rl_det.losses.advantages import Advantage, factors
from rl_det.losses.policy_gradient import mean, reinforce_loss
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy
from rl_det.rewards import RewardLike
from rl_det.strategies import health
from rl_det.strategies.from_reward import Wrap, check_from_reward, loop_of, make_environment, usable
from rl_det.strategies.pretest import tell_pretest
from rl_det.strategies.rollouts import Actor, Move, class_shifts, collect
from rl_det.strategies.selection import Monitor, validation_paid
from rl_det.strategies.strategy import Task
from rl_det.strategies.teaching import SupervisedLoss, taught
from rl_det.training.descent import Descent
from rl_det.training.loop import Ending
from rl_det.training.loop_config import PAID, LoopConfig


@dataclass(frozen=True, kw_only=True)
class Reinforce:
    """REINFORCE on the detector's head, with the metric itself as the reward."""

    name: str = "reinforce"
    """The name of its row in the table."""
    policy: PolicyName | None = None
    """The policy, as for PPO."""
    reward: Annotated[RewardLike, tyro.conf.arg(constructor=str, help_behavior_hint="(default: pool_ap)")] = "pool_ap"
    """The reward: pool_ap (the data set's mAP), another name of `rl_det.rewards.REWARDS`, an object,
    or a plain function (detections, target) -> value."""
    advantage: Advantage = "counterfactual"
    """The advantage of a candidate's action: its own credit (counterfactual), or its image's reward by leave_one_out or
    group (GRPO)."""
    gamma: float = 1.0
    """The discount of later steps; only the refining policy makes several."""
    num_steps: int | None = None
    """The steps of an episode of the refining policy; left out: 3."""
    wrap: Annotated[Wrap | None, tyro.conf.Suppress] = None
    """A function that wraps the environment, such as a vector wrapper of Gymnasium; not a flag."""
    num_updates: int | None = None
    """The number of rollouts; left out: as many as let all strategies see the same number of images."""
    samples_per_image: int = 8
    """K, the samples of each image in a rollout."""
    num_candidates: int = 96
    """The candidates of each image that act."""
    context_candidates: int = 160
    """The next candidates of each image: they do not act, but are ranked and suppress others."""
    exploration: Exploration = field(default_factory=Exploration)
    """How widely the policy explores."""
    learning_rate: float | None = None
    """AdamW's peak rate; left out: the head's in the warm start, or a quarter of the whole detector's if all is trained."""
    supervised_weight: float = 1.0
    """Weight of the detector's own supervised loss."""
    mean_shift_penalty: float = 0.1
    """Weight of the squared mean shift of each class's logits since they were shown, a mean over the classes shown; it holds a
    module alone, as a head has not moved yet when its shift is taken."""
    max_grad_norm: float = 1.0
    """The maximum norm of the gradient; a larger gradient is scaled down."""
    monitor: Monitor | None = None
    """The validation figure that selects the weights: AP, or the metric that the reward pays, at the score threshold that is
    best for it (paid). Left out: paid for f1, lrp, cost, counts and their pool forms, ap50 and ap_small, else AP."""
    patience: int | None = None
    """Training ends after this many validations without a better figure; left out: never."""
    collapse_margin: float = 0.03
    """Training ends if validation AP falls this far below the start's; it does not apply if the metric that is paid selects
    the weights, because that may rise while AP falls."""

    def __post_init__(self) -> None:
        check_from_reward(self)
        self.loop(1, 1.0, 1)  # refuses what is wrong

    @property
    def trains(self) -> Literal["head"]:
        """The head, and the policy's module."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The policy at the warm start."""
        return build_policy(self.policy, detector, self.exploration, num_steps=self.num_steps)

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Tune the policy in its own environment, with as many gradient steps as the control."""
        tell_pretest(self, policy, task)
        learner = ReinforceLearner(
            policy,
            make_environment(self, policy, task),
            self,
            generator=torch.Generator().manual_seed(task.seed),
            validate=lambda: task.validation_ap(policy),
            paid=validation_paid(self, policy, task),
            supervised=taught(None, policy, task.train) if self.supervised_weight else None,
        )
        return task.fit(learner, self.loop(task.num_steps, task.learning_rate, task.validate_every))

    def loop(self, num_updates: int, learning_rate: float, validate_every: int) -> LoopConfig:
        """The loop's settings; these arguments replace settings that are left out."""
        loop = loop_of(self, num_updates, learning_rate, validate_every)
        return replace(loop, bounds={"mean_shift": health.MEAN_SHIFT})


class ReinforceLearner:
    """A learner whose update collects a rollout and makes one gradient step on it."""

    def __init__(
        self,
        policy: Actor,
        envs: Any,
        config: Reinforce,
        *,
        generator: torch.Generator,
        validate: Callable[[], float],
        paid: Callable[[], float] | None = None,
        supervised: SupervisedLoss | None = None,
    ) -> None:
        self.policy, self.config, self.generator = policy, config, generator
        self.envs = usable(envs, config.advantage, config.gamma)
        self.validation_ap, self.paid, self.supervised = validate, paid, supervised

    @property
    def trainable(self) -> nn.Module:
        """The policy's trainable part."""
        return self.policy.trainable

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        """Run one episode in every sub-environment, and make one gradient step."""
        config = self.config
        rollout = collect(self.policy, self.envs, self.generator, config.advantage, config.gamma)
        losses = [self.step_loss(*step) for step in zip(rollout.moves, rollout.advantages, strict=True)]
        shifts = [class_shifts(move, move.distribution, self.envs.detector.num_classes) for move in rollout.moves]
        metrics = {
            "reward": float(rollout.reward.mean()),
            "signal": rollout.signal,
            "mean_shift": float(mean([own.detach().mean() for own in shifts])),
        }
        loss = mean(losses) + config.mean_shift_penalty * mean([own.square().mean() for own in shifts])
        if self.supervised is not None and rollout.encoded is not None and rollout.output is not None:
            supervised = self.supervised(rollout, rollout.output, rollout.moves[0].distribution)
            loss = loss + config.supervised_weight * supervised
            metrics["supervised"] = float(supervised.detach())
        with naming(lambda: self.envs.image_names(rollout.indices)):
            return {**metrics, "grad_norm": descent.step(loss)}

    def step_loss(self, move: Move, advantage: Tensor) -> Float[Tensor, ""]:
        """The score-function estimator of one step's actions, summed over their factors."""
        count, log_prob = move.num_factors, move.distribution.log_prob(move.action)
        pairs = zip(factors(log_prob, count), factors(advantage, count), strict=True)
        return torch.stack([reinforce_loss(*own, move.mask) for own in pairs]).sum()

    def validate(self) -> dict[str, float]:
        """The validation mAP, and the metric that is paid if it selects the weights."""
        return {"AP": self.validation_ap()} | ({} if self.paid is None else {PAID: self.paid()})

    def state_dict(self) -> dict[str, Any]:
        """The state of the next draws: the noise of the actions, and the environment's images."""
        return {"generator": self.generator.get_state(), "environment": self.envs.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.generator.set_state(state["generator"])
        self.envs.load_state_dict(state["environment"])
