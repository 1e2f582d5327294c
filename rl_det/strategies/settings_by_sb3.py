"""Choose post-processing settings for each image by a network that Stable-Baselines3's PPO trains.

SB3's PPO runs on `rl_det/TunePostprocessing-v0`. Its mean starts at one action for all images, so it learns how images
differ. SB3's EvalCallback keeps the model that is best on validation, the start included. This module imports SB3, so
no other module of the library imports it at load time. The detector does not change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float
from rl_det_envs.sb3 import DetectorVecEnv
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from rl_det.policies.settings import LEAST_SPREAD, LIMIT
from rl_det.progress import Bar, bar
from rl_det.settings import at_least, check_settings
from rl_det.strategies.fixed_settings import judged

BEST, LAST = "best_model", "last_model"
"""The names of the saved models."""
MINIBATCH_STEPS = 4
"""The steps of each environment in a gradient step's minibatch; a rollout has four times as many."""
EXPLORED = 0.15
"""The standard deviation of an action at the start."""
LEARNING_RATE = 3e-4
"""The learning rate at the start; it falls to 0."""

Log = Callable[[int, dict[str, float]], None]
"""(steps of the environments so far, metrics of a rollout) -> None."""


@dataclass(frozen=True, kw_only=True)
class SettingsBySb3:
    """The settings of SB3's PPO for post-processing."""

    num_steps: int = 120_000
    """The steps of all environments together; each step is an episode on one image."""
    num_validations: int = 40
    """The number of validations during training."""

    def __post_init__(self) -> None:
        check_settings(self, num_steps=at_least(1), num_validations=at_least(1))


class Standardised(BaseFeaturesExtractor):
    """Standardise an image's description by the mean and spread over the training images; saved with the model."""

    mean: Tensor
    spread: Tensor

    def __init__(self, observation_space: gymnasium.Space[Any], mean: list[float], spread: list[float]) -> None:
        super().__init__(observation_space, len(mean))
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, description: Tensor) -> Tensor:
        standard: Tensor = (description - self.mean) / self.spread
        return standard.clamp(-LIMIT, LIMIT)


def learn(
    train: Any, val: Any, start: Float[Tensor, "4"], config: SettingsBySb3, *, seed: int, folder: Path, log: Log
) -> tuple[PPO, PPO]:
    """Train from one action for all images; return the model that is best on validation, and the last one.

    Both are loaded from the files that SB3 saved. `train` and `val` are vector environments; `val` has a
    sub-environment for each image. Sets the global seeds, as SB3 does.
    """
    model = started_at(start, train, seed)
    model.save(folder / BEST)
    every_image = VecMonitor(DetectorVecEnv(val))
    every_image.seed(seed)
    evaluation = EvalCallback(
        every_image,
        n_eval_episodes=val.num_envs,
        eval_freq=max(1, config.num_steps // train.num_envs // config.num_validations),
        best_model_save_path=str(folder),
        verbose=0,
    )
    evaluation.best_mean_reward = judged(val, lambda seen: start.expand(len(seen), -1)).mean()
    with bar("sb3_ppo", config.num_steps) as shown:
        model.learn(config.num_steps, callback=[evaluation, Progress(shown, evaluation, log)])
    model.save(folder / LAST)
    best, last = (PPO.load(folder / name, device=train.device) for name in (BEST, LAST))
    return best, last


def started_at(start: Float[Tensor, "4"], train: Any, seed: int) -> PPO:
    """SB3's PPO, with this action as its mean for every image."""
    described = train.describe()
    model = PPO(
        "MlpPolicy",
        VecMonitor(DetectorVecEnv(train)),
        n_steps=4 * MINIBATCH_STEPS,
        batch_size=train.num_envs * MINIBATCH_STEPS,
        n_epochs=4,
        learning_rate=lambda left: LEARNING_RATE * left,
        gamma=1.0,  # an episode is one step: there is nothing to be discounted
        seed=seed,
        device=train.device,
        policy_kwargs={
            "log_std_init": float(np.log(EXPLORED)),
            "features_extractor_class": Standardised,
            "features_extractor_kwargs": {
                "mean": described.mean(0).tolist(),
                "spread": described.std(0).clip(min=LEAST_SPREAD).tolist(),
            },
        },
    )
    mean: Any = model.policy.action_net
    with torch.no_grad():
        mean.weight.zero_()
        mean.bias.copy_(start)
    return model


def chosen_by(model: PPO) -> Callable[[Tensor], Tensor]:
    """The function from descriptions to the model's actions without exploration."""
    return lambda seen: torch.from_numpy(model.predict(seen.numpy(force=True), deterministic=True)[0])


class Progress(BaseCallback):
    """Advance a bar; log each rollout's mean reward, and the last and best mean reward on validation."""

    def __init__(self, shown: Bar, evaluation: EvalCallback, log: Log) -> None:
        super().__init__()
        self.shown, self.evaluation, self.log = shown, evaluation, log

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rewards = {"reward": float(self.locals["rollout_buffer"].rewards.mean())}
        of_validation = {
            "val_reward": float(self.evaluation.last_mean_reward),
            "best": float(self.evaluation.best_mean_reward),
        }
        self.shown.reach(self.num_timesteps)
        self.log(self.num_timesteps, rewards | of_validation)
