"""Question: do post-processing settings that Stable-Baselines3's PPO chooses image by image beat the best fixed ones?

Command: python experiments/sb3_postprocessing.py --budget full --seed 0
Hardware, minutes and expected numbers with their spread over seeds: experiments/README.md.

Four methods on one detector, which stays as it is. `default`: its own NMS and a score threshold of a half. `fixed_by_grid`:
the score threshold, NMS IoU, 1 / sigma and number of detections that are best on validation, by a grid that is refined
around its best point. `sb3_ppo`: SB3's PPO on `rl_det/TunePostprocessing-v0`; its mean starts at the grid's point for every
image, so what it learns is how images differ; SB3's EvalCallback keeps the best on validation, the start included, and the
saved file is loaded again for the test. As the start is the luckiest of thousands on these very images, `sb3_ppo_last` shows
the end of the training too, which nobody chose. All are judged by the mean reward of the test images.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import rl_det_envs  # noqa: F401  (registers the environments)
import task
import torch
import tyro
from fixed_settings import as_action, best_on_grid, judged
from jaxtyping import Float, Float64
from rich.console import Console
from rich.table import Table
from rl_det_envs.sb3 import DetectorVecEnv
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecMonitor
from task import Bar, Task, clear_errors, open_task
from torch import Tensor
from tuning import encoded

from rl_det.ap.data_set import coco_figures
from rl_det.ap.padding import pad_targets
from rl_det.data import Split
from rl_det.metrics.outcomes import image_counts
from rl_det.rewards import check_reward
from rl_det.storage.files import check_writable
from rl_det.storage.run import Run

NUM_STEPS = {"smoke": 1024, "short": 60_000, "full": 120_000}
NUM_ENVS = 64
MINIBATCH_STEPS = 4
"""Of all environments, in a gradient step; a rollout has four times as many."""
NUM_VALIDATIONS = 40
EXPLORED = 0.15
"""The standard deviation of an action at the start."""


@dataclass(frozen=True, kw_only=True)
class Arguments(task.Arguments):
    """The flags of every experiment but `--policy`: SB3 has its own."""

    policy: Annotated[task.PolicyName, tyro.conf.Suppress] = "voting"
    reward: str = "f1"
    """What settings are chosen and judged by: f1, lrp, cost or another; in AP the lowest threshold is never beaten."""


def main(arguments: Arguments) -> None:
    """Default, grid, PPO; the table is written whatever it says."""
    data = "digit_scenes" if arguments.data is None else arguments.data.resolve().name
    name = f"sb3_postprocessing-{data}-{arguments.detector}-{arguments.budget}-seed{arguments.seed}"
    folder = arguments.out or Path("runs") / name
    check_writable(folder)
    check_reward(arguments.reward)  # an unknown one is refused before any work
    opened = open_task(arguments)
    train, val, test = (environment(opened, split, arguments) for split in ("train", "val", "test"))
    seconds, fixed = {"default": 0.0}, {"default": as_action(val, 0.5, val.nms_iou, 0.0, val.num_candidates)}
    with Run(folder, asdict(arguments), arguments.seed) as run:
        started = time.perf_counter()
        fixed["fixed_by_grid"] = grid = best_on_grid(val, arguments.budget)
        seconds["fixed_by_grid"] = time.perf_counter() - started
        models = learned(train, val, grid, arguments, run)
        seconds |= dict.fromkeys(models, time.perf_counter() - started)
        choices: dict[str, Callable[[Tensor], Tensor]] = {
            name: lambda seen, action=action: action.expand(len(seen), -1)  # type: ignore[misc]
            for name, action in fixed.items()
        }
        choices |= {name: chosen_by(model) for name, model in models.items()}
        methods, rewards = {}, {}
        for name, choose in choices.items():
            methods[name], rewards[name] = figures(test, choose)
        gains = {name: rewards[name] - rewards["fixed_by_grid"] for name in models}
        results = {
            "seed": arguments.seed,
            "data": str(arguments.data or "digit_scenes"),
            "detector": arguments.detector,
            "device": str(opened.device),
            "reward": arguments.reward,
            "budget": arguments.budget,
            "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
            "grid_settings": {name: value.item() for name, value in vars(val.settings(grid[None])).items()},
            "methods": methods,
            "over_grid": {
                name: {"mean": gain.mean(), "standard_error": gain.std(ddof=1) / len(gain) ** 0.5}
                for name, gain in gains.items()
            },
        }
        run.write_results(results)
    print_methods(results)
    print(f"The models, the metrics and results.json are in {folder}")


def environment(opened: Task, split: Split, arguments: Arguments) -> Any:
    """The vector environment on a split: one sub-environment for each image, but for training."""
    data = encoded(opened, split)
    return gymnasium.make_vec(
        "rl_det/TunePostprocessing-v0",
        num_envs=min(NUM_ENVS, len(data)) if split == "train" else len(data),
        vectorization_mode="vector_entry_point",
        detector=opened.detector,
        dataset=data,
        reward=arguments.reward,
        device=opened.device,
    ).unwrapped


class Standardised(BaseFeaturesExtractor):
    """The description of an image, each number over its spread in the training images; it is saved with the model."""

    mean: Tensor
    spread: Tensor

    def __init__(self, observation_space: gymnasium.Space[Any], mean: list[float], spread: list[float]) -> None:
        super().__init__(observation_space, len(mean))
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, description: Tensor) -> Tensor:
        standard: Tensor = (description - self.mean) / self.spread
        return standard.clamp(-5, 5)


def learned(train: Any, val: Any, start: Float[Tensor, "4"], arguments: Arguments, run: Run) -> dict[str, PPO]:
    """SB3's PPO, started at one action for all images: the best on validation and the last, as they were saved."""
    described, steps = train.describe(), NUM_STEPS[arguments.budget]
    model = PPO(
        "MlpPolicy",
        VecMonitor(DetectorVecEnv(train)),
        n_steps=4 * MINIBATCH_STEPS,
        batch_size=train.num_envs * MINIBATCH_STEPS,
        n_epochs=4,
        learning_rate=lambda left: 3e-4 * left,
        gamma=1.0,  # an episode is one step: there is nothing to be discounted
        seed=arguments.seed,
        device=train.device,
        policy_kwargs={
            "log_std_init": float(np.log(EXPLORED)),
            "features_extractor_class": Standardised,
            "features_extractor_kwargs": {
                "mean": described.mean(0).tolist(),
                "spread": described.std(0).clip(min=1e-3).tolist(),
            },
        },
    )
    mean: Any = model.policy.action_net
    with torch.no_grad():
        mean.weight.zero_()
        mean.bias.copy_(start)
    folder = run.folder / "checkpoints"
    model.save(folder / "best_model")
    every_image = VecMonitor(DetectorVecEnv(val))
    every_image.seed(arguments.seed)
    evaluation = EvalCallback(
        every_image,
        n_eval_episodes=val.num_envs,
        eval_freq=max(1, steps // train.num_envs // NUM_VALIDATIONS),
        best_model_save_path=str(folder),
        verbose=0,
    )
    evaluation.best_mean_reward = judged(val, lambda seen: start.expand(len(seen), -1)).mean()
    with Bar("sb3_ppo", steps, run.log) as bar:
        model.learn(steps, callback=[evaluation, Progress(bar, evaluation)])
    model.save(folder / "last_model")
    return {
        "sb3_ppo": PPO.load(folder / "best_model", device=train.device),
        "sb3_ppo_last": PPO.load(folder / "last_model", device=train.device),
    }


def chosen_by(model: PPO) -> Callable[[Tensor], Tensor]:
    """What a model does where it explores nothing."""
    return lambda seen: torch.from_numpy(model.predict(seen.numpy(force=True), deterministic=True)[0])


class Progress(BaseCallback):
    """Moves a bar and logs the mean reward of each rollout, and the last and the best on validation."""

    def __init__(self, bar: Bar, evaluation: EvalCallback) -> None:
        super().__init__()
        self.bar, self.evaluation = bar, evaluation

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rewards = {"reward": float(self.locals["rollout_buffer"].rewards.mean())}
        of_validation = {"val_reward": self.evaluation.last_mean_reward, "best": self.evaluation.best_mean_reward}
        self.bar.update(self.num_timesteps, rewards | of_validation)


def figures(envs: Any, choose: Callable[[Tensor], Tensor]) -> tuple[dict[str, float], Float64[np.ndarray, " D"]]:
    """The mean reward; F1 of all images together, AP and the mean settings; and each image's reward."""
    rewards = judged(envs, choose)
    found, truths, num_classes = envs.drawn()[1], pad_targets(envs.data.targets), envs.detector.num_classes
    c = image_counts(found, truths, num_classes=num_classes)
    told = {
        "reward": float(rewards.mean()),
        "F1": float(2 * c.found.sum() / max(1, (2 * c.found + c.spurious + c.missed).sum())),
        "AP": coco_figures(found, truths, num_classes=num_classes)["AP"],
    }
    return told, rewards


def print_methods(results: dict[str, Any]) -> None:
    """The methods, times 100, and what PPO is above the grid."""
    table = Table(title=f"{results['data']}, {results['detector']}, seed {results['seed']}: test split, x 100")
    for name in ("method", f"mean {results['reward']}", "F1 of all", "AP", "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name, values in results["methods"].items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in values.values()), f"{results['seconds'][name]:.0f}")
    Console(width=100).print(table)
    for name, gain in results["over_grid"].items():
        mean, error = 100 * gain["mean"], 100 * gain["standard_error"]
        print(f"{name} over fixed_by_grid, image by image: {mean:+.2f}, standard error {error:.2f}")


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
