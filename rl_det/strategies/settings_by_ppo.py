"""Choose post-processing settings for each image by a small network that our own PPO trains; the detector does not change.

`PpoLearner` runs on `rl_det/TunePostprocessing-v0` in the training loop of all strategies (`fit`). The network's mean
starts at one action for all images. The mean reward on validation selects the weights, the start included.
`rl_det.strategies.settings_by_sb3` does the same by SB3's PPO. We differ from it:

1. A rollout has K samples of each image, in antithetic pairs. SB3 has one, and a value network in place of the others.
2. The standard deviation of an action stays as it is; SB3 learns it.
3. Weight decay draws the network towards one action for all images. Without it, more updates fit the training images
   alone, because a description says little of the settings that its image needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rl_det.losses.advantages import Advantage
from rl_det.policies.settings import SettingsPolicy
from rl_det.progress import Bar
from rl_det.settings import at_least, check_settings, positive, within
from rl_det.strategies.fixed_settings import judged
from rl_det.strategies.ppo import PPO, PpoLearner
from rl_det.training.loop import Callback, Ending, FitRun, fit
from rl_det.training.loop_config import LoopConfig

Log = Callable[[int, dict[str, float]], None]
"""(actions so far, metrics of a rollout) -> None."""


@dataclass(frozen=True, kw_only=True)
class SettingsByPpo:
    """The settings of our PPO for post-processing."""

    num_updates: int = 400
    """The number of rollouts."""
    num_validations: int = 20
    """The number of validations during training, besides that of the start."""
    images_per_update: int = 256
    """The images of a rollout, or all training images if there are fewer."""
    samples_per_image: int = 4
    """K, the samples of each image in a rollout."""
    advantage: Advantage = "counterfactual"
    """The advantage of an action: its reward minus that of the action without exploration (counterfactual), or minus
    the mean of the image's other samples (leave_one_out); or GRPO's (group)."""
    num_epochs: int = 2
    """Gradient steps on each rollout."""
    sigma: float = 0.15
    """The standard deviation of an action."""
    num_hidden: int = 64
    """The hidden units of the network."""
    learning_rate: float = 3e-4
    """AdamW's peak rate."""
    weight_decay: float = 3.0
    """AdamW's weight decay; it draws the network towards one action for all images, the start."""
    clip: float = 0.2
    """The distance from 1 up to which an action's probability ratio is still rewarded."""
    target_kl: float = 0.05
    """A rollout's remaining epochs are skipped once the policy is this far, in nats, from the one that sampled."""
    patience: int | None = None
    """Training ends after this many validations without a better mean reward; left out: never."""

    def __post_init__(self) -> None:
        counts = ("num_updates", "num_validations", "images_per_update", "num_epochs", "num_hidden", "patience")
        check_settings(
            self,
            **dict.fromkeys(counts, at_least(1)),
            **dict.fromkeys(("sigma", "learning_rate"), positive()),
            target_kl=positive(infinite=True),
            samples_per_image=at_least(2),
            weight_decay=at_least(0),
            clip=within("(0, 1)"),
        )

    @property
    def ppo(self) -> PPO:
        """What PPO's learner needs to know; there is no logit to be shifted, and nothing to be supervised."""
        return PPO(
            advantage=self.advantage,
            samples_per_image=self.samples_per_image,
            num_epochs=self.num_epochs,
            clip=self.clip,
            target_kl=self.target_kl,
            supervised_weight=0.0,
        )

    @property
    def loop(self) -> LoopConfig:
        """The loop's settings."""
        return LoopConfig(
            num_updates=self.num_updates,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            validate_every=Fraction(self.num_updates, self.num_validations),
            patience=self.patience,
        )


def learn_settings(
    train: Any,
    val: Any,
    start: Float[Tensor, "4"],
    config: SettingsByPpo,
    *,
    seed: int,
    callbacks: Sequence[Callback] = (),
) -> tuple[SettingsPolicy, SettingsPolicy]:
    """Train from one action for all images; return the policy that is best on validation, and the last one.

    `train` and `val` are vector environments of TunePostprocessing. `train` has `samples_per_image` samples of each
    image, and gives credit if the advantage is counterfactual; `val` has a sub-environment for each image. With
    `rl_det.training.callbacks.Checkpoint` among the callbacks, training resumes where it was stopped.
    """
    generator = torch.Generator().manual_seed(seed)
    described = torch.from_numpy(train.describe())
    policy = SettingsPolicy(start, described, sigma=config.sigma, num_hidden=config.num_hidden, generator=generator)
    policy.to(train.device)
    train.reset(seed=seed)
    learner = PpoLearner(
        policy, train, config.ppo, generator=generator, validate=lambda: float(judged(val, policy.chosen).mean())
    )
    last = Last(policy)
    fit(learner, config.loop, name="own_ppo", callbacks=[*callbacks, last])
    return policy, last.policy


class Last(Callback):
    """Keep a copy of the policy after the last update, before the best weights come back."""

    def __init__(self, policy: SettingsPolicy) -> None:
        self.policy = policy

    def on_end(self, run: FitRun, ending: Ending) -> None:
        self.policy = self.policy.copy()


class Progress(Callback):
    """Advance a bar; log each rollout's mean reward, and the last and best mean reward on validation."""

    def __init__(self, log: Log, actions_per_update: int) -> None:
        self.log, self.actions_per_update, self.last = log, actions_per_update, float("nan")

    def on_start(self, run: FitRun) -> None:
        self.bar = Bar(run.name, run.config.num_updates, initial=run.update)

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        self.last = metrics.get(f"val_{run.config.monitor}", self.last)
        self.bar.reach(run.update)
        if run.update:
            assert run.best_figure is not None, "the start is validated"
            told = {"val_reward": self.last, "best": run.best_figure}
            self.log(run.update * self.actions_per_update, {"reward": metrics["reward"], **told})

    def on_end(self, run: FitRun, ending: Ending) -> None:
        self.bar.close()

    def on_error(self, run: FitRun) -> None:
        self.bar.close()
