"""PPO for a detector's head: a policy and an environment of candidates -> the policy, tuned for the reward.

Proximal policy optimisation (Schulman et al. 2017) for episodes of one step, in which many candidates act at once.
How we differ from the paper:

1. The ratio and its clip are per candidate. An image's ratio would be a product of N factors, which explodes.
2. The advantage of a candidate is its own credit, the exact counterfactual that the environment gives in
   `info["credit"]`: what its action alone would change. It may also be the image's leave-one-out reward, or GRPO's over the
   group of the image's samples. There is no value network.
3. K samples of each image, in antithetic pairs, share one forward pass, and the first epoch's gradient goes back through
   that very pass; the frozen part of the detector never runs.
4. The detector's own supervised loss is mixed in (as the pretraining loss is in Ouyang et al. 2022, "PPO-ptx"): boxes and
   scores share a trunk, and the reward alone would let the boxes drift. A surrogate of AP may be mixed in instead.
5. Ranks do not feel a common shift of all logits, so the shift has a price (`mean_shift_penalty`); nor a common scale, so what
   a module adds to the head's logits has one (`residual_penalty`).
6. A candidate may act by several independent factors, such as its logit's shift and its box's move. Each has its own credit,
   ratio and clip, and their losses are summed (`factor_weights`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.detectors import Detector
from rl_det.losses.advantages import Advantage, factors
from rl_det.losses.policy_gradient import approximate_kl, clipped_loss, masked_mean
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.distributions import GaussianAdjustments
from rl_det.policies.exploration import Exploration
from rl_det.policies.policy import Policy
from rl_det.rewards import Reward, check_reward
from rl_det.strategies.hand_set import set_best_votes
from rl_det.strategies.rollouts import Rollout, collect, make_environment
from rl_det.strategies.strategy import Task, given
from rl_det.strategies.surrogate import SurrogateName
from rl_det.strategies.teaching import Supervised, taught
from rl_det.training.descent import Descent
from rl_det.training.loop import Ending, LoopConfig
from rl_det.types import HeadOutput


@dataclass(frozen=True, kw_only=True)
class PPO:
    """Proximal policy optimisation of the detector's head, paid in the metric itself."""

    name: str = "ppo"
    """The row of the table."""
    policy: PolicyName = "voting"
    """What acts: the head by rescoring, by selecting, or by rescoring and moving boxes (adjust); or with a module beside the
    head by rescoring (context) or by rescoring and moving boxes (voting)."""
    reward: Annotated[str | Reward, tyro.conf.arg(constructor=str, help_behavior_hint="(default: pool_ap)")] = "pool_ap"
    """What an action is paid in: pool_ap (the data set's mAP), or another name of `rl_det.rewards.REWARDS`, or an object."""
    begin: Literal["warm_start", "hand_set_votes"] = "warm_start"
    """Where the voting policy begins: at the warm start, or where votes that nobody trained are best on validation."""
    taught_by: SurrogateName | None = None
    """The surrogate of AP that is mixed in beside the detector's own losses; None: those losses alone."""
    advantage: Advantage = "counterfactual"
    """What a candidate's action is judged by: its own credit, or its image's reward, leave_one_out or group (GRPO)."""
    num_updates: int | None = None
    """Rollouts to collect and learn from; left out: so many that all strategies see as many images."""
    num_epochs: int = 2
    """Passes over each rollout; they are cheap, as features are cached."""
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
    clip: float = 0.2
    """How far a candidate's probability ratio may leave 1 and still be rewarded for it."""
    target_kl: float = 0.05
    """A rollout's remaining epochs are skipped once the policy is this far, in nats a candidate, from where it sampled; of
    several factors the first one counts."""
    kl_weight: float = 0.0
    """Weight of the KL to the policy's start; it limits damage and also pins a bad start."""
    supervised_weight: float = 1.0
    """Weight of the detector's own supervised loss."""
    mean_shift_penalty: float = 0.1
    """Weight of the squared mean shift of all logits."""
    residual_penalty: float = 0.1
    """Weight of the mean square of what a module adds to the head's own logits, where the policy has one."""
    factor_weights: tuple[float, float] = (1.0, 4.0)
    """Weights of the losses of a candidate's factors, the shift of its logit and the move of its box."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    patience: int | None = None
    """Validations without a better AP before training ends; left out: never."""
    collapse_margin: float = 0.03
    """Training ends where validation AP falls this far under the start's."""

    def __post_init__(self) -> None:
        for name in ("num_epochs", "samples_per_image", "num_candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1; got {self.clip}; 0.2 is usual")
        if self.begin == "hand_set_votes" and self.policy != "voting":
            raise ValueError(f"only the voting policy can begin at hand-set votes; got policy {self.policy!r}")
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
        """Tune the policy in its own environment."""
        if self.begin == "hand_set_votes":
            set_best_votes(policy, task.validation_ap)
        learner = PpoLearner(
            policy,
            environment_of(self, policy, task),
            self,
            generator=torch.Generator().manual_seed(task.seed),
            validate=lambda: task.validation_ap(policy),
            supervised=taught(self.taught_by, policy, task) if self.supervised_weight else None,
        )
        num_updates, every = (max(1, steps // self.num_epochs) for steps in (task.num_steps, task.validate_every))
        return task.fit(learner, self.loop(num_updates, task.learning_rate, every))

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


def environment_of(config: PPO, policy: Policy, task: Task) -> Any:
    """The policy's own environment, with credit where the advantage is each candidate's own."""
    return make_environment(
        config.policy,
        policy,
        task,
        reward=config.reward,
        samples_per_image=config.samples_per_image,
        num_candidates=config.num_candidates,
        context_candidates=config.context_candidates,
        credit=config.advantage == "counterfactual",
    )


class PpoLearner:
    """Collects a rollout and makes several epochs of clipped gradient steps on it."""

    def __init__(
        self,
        policy: Policy,
        envs: Any,
        config: PPO,
        *,
        generator: torch.Generator,
        validate: Callable[[], float],
        supervised: Supervised | None = None,
    ) -> None:
        self.policy, self.envs, self.config, self.generator = policy, envs, config, generator
        self.validation_ap, self.supervised = validate, supervised
        self.reference = policy.copy() if config.kl_weight else None

    @property
    def trainable(self) -> nn.Module:
        """The policy's."""
        return self.policy.trainable

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        """Several epochs of clipped gradient steps on one fresh rollout; says what happened in them."""
        rollout = collect(self.policy, self.envs, self.generator, self.config.advantage)
        metrics: dict[str, float] = {"reward": float(rollout.reward.mean()), "signal": rollout.signal}
        for epoch in range(self.config.num_epochs):
            output, distribution = rollout.output, rollout.distribution
            if epoch:  # the weights have moved since the rollout
                output = self.policy.detector.head(rollout.encoded)
                distribution = self.policy.distribution(rollout.observation, output)
            log_ratio = distribution.log_prob(rollout.action) - rollout.log_prob
            moved = float(approximate_kl(factors(log_ratio)[0].detach(), rollout.mask))
            metrics |= {"kl_old": moved, "epochs": float(epoch)}
            if epoch and moved > self.config.target_kl:
                break
            loss, parts = self.loss(rollout, output, distribution, log_ratio)
            metrics |= parts
            metrics |= {"grad_norm": descent.step(loss), "epochs": epoch + 1.0}
        return metrics

    def loss(
        self, rollout: Rollout, output: HeadOutput, distribution: Any, log_ratio: Tensor
    ) -> tuple[Float[Tensor, ""], dict[str, float]]:
        """The clipped surrogate, the prices of drifting, and the supervised loss; and each of them."""
        config, real = self.config, rollout.mask[:, 0]
        pairs = zip(factors(log_ratio), factors(rollout.advantage), strict=True)
        losses = [clipped_loss(ratio, advantage, rollout.mask, clip=config.clip) for ratio, advantage in pairs]
        weights = config.factor_weights[: len(losses)]
        surrogate = torch.stack([w * own for w, own in zip(weights, losses, strict=True)]).sum()
        shift = masked_mean(distribution.shift(), real)
        loss = surrogate + config.mean_shift_penalty * shift.square()
        metrics = {"surrogate": float(surrogate.detach()), "mean_shift": float(shift.detach())}
        if isinstance(distribution, GaussianAdjustments):
            residual = masked_mean(distribution.residual.square(), real)
            loss = loss + config.residual_penalty * residual
            metrics["residual"] = float(residual.detach())
        if self.supervised is not None:
            supervised = self.supervised(rollout.indices, rollout.encoded, output)
            loss = loss + config.supervised_weight * supervised
            metrics["supervised"] = float(supervised.detach())
        if self.reference is not None:
            with torch.no_grad():
                head = self.reference.detector.head(rollout.encoded)
                start = self.reference.distribution(rollout.observation, head)
            distance = masked_mean(distribution.kl(start), real)
            loss = loss + config.kl_weight * distance
            metrics["kl_start"] = float(distance.detach())
        return loss, metrics

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
