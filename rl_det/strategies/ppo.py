"""PPO for a detector's head: tune a policy in an environment of candidates, with the metric as the reward.

This is proximal policy optimisation (Schulman et al. 2017) for short episodes, in which many candidates act at once. We
differ from the paper:

1. The ratio and its clip are per candidate. An image's ratio would be a product of N factors, which explodes.
2. A candidate's advantage is its own credit, the exact counterfactual: the reward of its action alone. Alternatives are
   the image's leave-one-out reward, and GRPO's advantage over the image's group of samples. In episodes of several steps
   they count from a step on. There is no value network (`losses.advantages.candidate_advantages` says why).
3. K samples of each image, one in each stratum of a candidate's probability, share one forward pass. The first epoch's
   gradient goes back through this pass. The frozen part of the detector never runs.
4. The detector's own supervised loss is added (like the pretraining loss in Ouyang et al. 2022, "PPO-ptx"). Boxes and
   scores share a trunk, and the reward alone would let the boxes drift. A surrogate of AP is added too (`taught_by`).
5. A common shift of a class's logits changes no rank that AP sees, as AP is taken class by class, so each class's mean
   shift has a penalty (`mean_shift_penalty`). A common scale does not change ranks either, so what a module adds to the
   head's logits has a penalty (`residual_penalty`).
6. A candidate's action may have several independent factors, such as a logit's shift and a box's move. Each factor has
   its own credit, ratio and clip, and their losses are summed (`factor_weights`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from rl_det import parallel
from rl_det.detectors import Detector
from rl_det.detectors.encodings import Encodings
from rl_det.errors import UserError, naming
from rl_det.losses.advantages import Advantage, factors
from rl_det.losses.policy_gradient import approximate_kl, clipped_loss, masked_mean, mean
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.distributions import Distribution, GaussianAdjustments, GaussianShifts
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy
from rl_det.policies.refine import RefinePolicy
from rl_det.rewards import RewardLike
from rl_det.settings import at_least, positive, within
from rl_det.strategies import health
from rl_det.strategies.from_reward import Wrap, check_from_reward, loop_of, make_environment, usable
from rl_det.strategies.hand_set import Begin, begin_at, check_begin, check_votes
from rl_det.strategies.pretest import tell_pretest
from rl_det.strategies.rollouts import Actor, Move, Rollout, class_shifts, collect, head_output
from rl_det.strategies.selection import Monitor, validation_paid
from rl_det.strategies.strategy import Task
from rl_det.strategies.surrogate import SurrogateName
from rl_det.strategies.teaching import SupervisedLoss, taught
from rl_det.training.descent import Descent
from rl_det.training.loop import Ending
from rl_det.training.loop_config import PAID, LoopConfig
from rl_det.types import HeadOutput


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Proximal policy optimisation of the detector's head, with the metric itself as the reward."""

    name: str = "ppo"
    """The name of its row in the table."""
    policy: PolicyName | None = None
    """The policy. The head alone: rescore, select, or adjust (rescore and move boxes). The head with a module: context
    (rescore) or voting (rescore and move boxes). Left out: voting where proposals overlap, else adjust."""
    reward: Annotated[RewardLike, tyro.conf.arg(constructor=str, help_behavior_hint="(default: pool_ap)")] = "pool_ap"
    """The reward: pool_ap (the exact change of the mAP of a pool of images), another name of `rl_det.rewards.REWARDS`, an
    object, or a plain function (detections, target) -> value."""
    begin: Begin | None = None
    """Where the policy starts: at the warm start, or at the hand-set votes that are best on validation. Left out: at the
    votes where the policy votes."""
    taught_by: SurrogateName | None = "smooth_ap"
    """The surrogate of AP that is added to the detector's own losses; None: those losses alone, as always for the policy
    refine, whose boxes no surrogate ranks."""
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
    num_epochs: int = 2
    """Passes over each rollout; they are cheap, because features are cached."""
    samples_per_image: int = 4
    """K, the samples of each image in a rollout."""
    num_candidates: int = 96
    """The candidates of each image that act."""
    context_candidates: int = 160
    """The next candidates of each image: they do not act, but are ranked and suppress others."""
    exploration: Exploration = field(default_factory=Exploration)
    """How widely the policy explores."""
    learning_rate: float | None = None
    """AdamW's peak rate; left out: the head's in the warm start, or a quarter of the whole detector's if all is trained."""
    clip: float = 0.2
    """The distance from 1 up to which a candidate's probability ratio is still rewarded."""
    target_kl: float = 0.05
    """A rollout's remaining epochs are skipped once the policy is this far, in nats a candidate, from the one that
    sampled; with several factors, only the first counts."""
    kl_weight: float = 0.0
    """Weight of the KL to the policy's start; it limits damage, but also holds on to a bad start."""
    supervised_weight: float = 1.0
    """Weight of the detector's own supervised loss."""
    mean_shift_penalty: float = 0.1
    """Weight of the squared mean shift of each class's logits since they were shown, a mean over the classes shown. It does not
    hold what the head has learned; `kl_weight` does."""
    residual_penalty: float = 0.1
    """Weight of the mean square of what a module adds to the head's own logits, if the policy has one."""
    factor_weights: tuple[float, ...] = (1.0, 4.0)
    """Weights of the losses of a candidate's factors: the shift of its logit, the move of its box if the policy moves it."""
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
        check_from_reward(
            self,
            **dict.fromkeys(("kl_weight", "residual_penalty", "factor_weights"), at_least(0)),
            num_epochs=at_least(1),
            target_kl=positive(infinite=True),
            clip=within("(0, 1)"),
        )
        if not self.factor_weights:
            raise UserError("factor_weights must have a weight for each factor; got none; (1.0, 4.0) is usual")
        check_begin(self.begin, self.policy)
        self.loop(1, 1.0, 1)  # refuses what is wrong

    @property
    def trains(self) -> Literal["head"]:
        """The head, and the policy's module."""
        return "head"

    def start(self, detector: Detector) -> Policy:
        """The policy at the warm start."""
        policy = build_policy(self.policy, detector, self.exploration, num_steps=self.num_steps)
        check_votes(self.begin, policy)
        return policy

    def tune(self, policy: Policy, task: Task) -> Ending:
        """Tune the policy in its own environment."""
        begin_at(self.begin, policy, task)
        tell_pretest(self, policy, task)
        learner = PpoLearner(
            policy,
            make_environment(self, policy, task),
            self,
            generator=torch.Generator().manual_seed(task.seed),
            validate=lambda: task.validation_ap(policy),
            paid=validation_paid(self, policy, task),
            supervised=self.teaching(policy, task.train) if self.supervised_weight else None,
        )
        num_updates, every = (max(1, steps // self.num_epochs) for steps in (task.num_steps, task.validate_every))
        return task.fit(learner, self.loop(num_updates, task.learning_rate, every))

    def teaching(self, policy: Policy, train: Encodings) -> SupervisedLoss:
        """The supervised loss that is added."""
        return taught(
            None if isinstance(policy, RefinePolicy) else self.taught_by, policy, train, self.residual_penalty
        )

    def loop(self, num_updates: int, learning_rate: float, validate_every: int) -> LoopConfig:
        """The loop's settings; these arguments replace settings that are left out."""
        loop = loop_of(self, num_updates, learning_rate, validate_every)
        if loop.num_updates < health.FEWEST_UPDATES:
            return loop
        bounds = {
            "kl_old": health.KL_OVER_TARGET * self.target_kl,
            "mean_shift": health.MEAN_SHIFT,
            "residual": health.RESIDUAL,
        }
        return replace(loop, bounds=bounds)


class PpoLearner:
    """A learner whose update collects a rollout and makes several epochs of clipped gradient steps on it."""

    def __init__(
        self,
        policy: Actor,
        envs: Any,
        config: PPO,
        *,
        generator: torch.Generator,
        validate: Callable[[], float],
        paid: Callable[[], float] | None = None,
        supervised: SupervisedLoss | None = None,
    ) -> None:
        self.policy, self.config, self.generator = policy, config, generator
        self.envs = usable(envs, config.advantage, config.gamma)
        self.validation_ap, self.paid, self.supervised = validate, paid, supervised
        self.reference = policy.copy() if config.kl_weight else None

    @property
    def trainable(self) -> nn.Module:
        """The policy's trainable part."""
        return self.policy.trainable

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        """Make several epochs of clipped gradient steps on one new rollout; return their metrics."""
        config = self.config
        rollout = collect(self.policy, self.envs, self.generator, config.advantage, config.gamma)
        self.check_weights(rollout)
        metrics: dict[str, float] = {"reward": float(rollout.reward.mean()), "signal": rollout.signal}
        for epoch in range(config.num_epochs):
            output, distributions = rollout.output, [move.distribution for move in rollout.moves]
            if epoch:  # the weights have moved since the rollout
                output = head_output(self.policy, rollout.encoded)
                distributions = rollout.distributions(self.policy, output)
            log_ratios = [
                distribution.log_prob(move.action) - move.log_prob
                for move, distribution in zip(rollout.moves, distributions, strict=True)
            ]
            away = mean([moved_away(*step) for step in zip(rollout.moves, log_ratios, strict=True)])
            kl_old = parallel.mean_of(float(away))  # all processes end the rollout together
            metrics |= {"kl_old": kl_old, "epochs": float(epoch)}
            if epoch and kl_old > config.target_kl:
                break
            loss, parts = self.loss(rollout, output, distributions, log_ratios)
            metrics |= parts
            with naming(lambda: self.envs.image_names(rollout.indices)):
                metrics |= {"grad_norm": descent.step(loss), "epochs": epoch + 1.0}
        return metrics

    def loss(
        self, rollout: Rollout, output: HeadOutput | None, distributions: list[Distribution], log_ratios: list[Tensor]
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The sum of the clipped surrogate, the penalties and the supervised loss; and each term."""
        config, moves = self.config, rollout.moves
        parts = zip(moves, log_ratios, rollout.advantages, strict=True)
        surrogate = mean([self.surrogate(*part) for part in parts])
        reals = [move.mask.any(1) for move in moves]
        each = zip(moves, distributions, strict=True)
        shifts = [class_shifts(*own, self.envs.detector.num_classes) for own in each]
        loss = surrogate + config.mean_shift_penalty * mean([own.square().mean() for own in shifts])
        shift = mean([own.detach().mean() for own in shifts])
        metrics = {"surrogate": float(surrogate.detach()), "mean_shift": float(shift)}
        residuals = [
            masked_mean(own.residual.square(), real)
            for own, real in zip(distributions, reals, strict=True)
            if isinstance(own, (GaussianAdjustments, GaussianShifts)) and own.residual is not None
        ]
        if residuals:
            residual = mean(residuals)
            loss = loss + config.residual_penalty * residual
            metrics["residual"] = float(residual.detach())
        if self.supervised is not None and rollout.encoded is not None and output is not None:
            supervised = self.supervised(rollout, output, distributions[0])
            loss = loss + config.supervised_weight * supervised
            metrics["supervised"] = float(supervised.detach())
        if self.reference is not None:
            with torch.no_grad():
                starts = rollout.distributions(self.reference, head_output(self.reference, rollout.encoded))
            three = zip(distributions, starts, reals, strict=True)
            distance = mean([masked_mean(own.kl(start), real) for own, start, real in three])
            loss = loss + config.kl_weight * distance
            metrics["kl_start"] = float(distance.detach())
        return loss, metrics

    def surrogate(self, move: Move, log_ratio: Tensor, advantage: Tensor) -> Float[Tensor, ""]:
        """The clipped surrogate of one step's actions, summed over their factors."""
        count = move.num_factors
        pairs = zip(factors(log_ratio, count), factors(advantage, count), strict=True)
        losses = [clipped_loss(ratio, own, move.mask, clip=self.config.clip) for ratio, own in pairs]
        weights = self.config.factor_weights[:count]
        return torch.stack([weight * own for weight, own in zip(weights, losses, strict=True)]).sum()

    def check_weights(self, rollout: Rollout) -> None:
        """Raise UserError if a factor of the actions has no weight, or a weight that is not the default has no factor."""
        count, weights = rollout.moves[0].num_factors, self.config.factor_weights
        if count > len(weights) or (count < len(weights) and weights != PPO.factor_weights):
            raise UserError(
                f"factor_weights must have one weight for each of the action's factors, {count}; got {weights}"
            )

    def validate(self) -> dict[str, float]:
        """The validation mAP, and the metric that is paid if it selects the weights."""
        return {"AP": self.validation_ap()} | ({} if self.paid is None else {PAID: self.paid()})

    def state_dict(self) -> dict[str, Any]:
        """The state of the next draws (the noise of the actions, and the environment's images), and where training began."""
        state = {"generator": self.generator.get_state(), "environment": self.envs.state_dict()}
        return state if self.reference is None else {**state, "reference": self.reference.trainable.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        self.generator.set_state(state["generator"])
        self.envs.load_state_dict(state["environment"])
        if self.reference is not None:
            if "reference" not in state:
                raise UserError(
                    f"{self.config.name}: the run was stopped by an older version, and cannot go on in this one"
                )
            self.reference.trainable.load_state_dict(state["reference"])


def moved_away(move: Move, log_ratio: Tensor) -> Float[Tensor, ""]:
    """The distance of a step's present distribution from the one that sampled, in nats a candidate, by the first factor."""
    return approximate_kl(factors(log_ratio, move.num_factors)[0].detach(), move.mask)
