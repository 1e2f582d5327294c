"""Compare fixed post-processing with settings that PPO, ours and SB3's, chooses for each image; the detector does not change.

`default` is the detector's own NMS and a score threshold of a half. `fixed_by_grid` has the score threshold, NMS IoU,
1 / sigma and number of detections that are best on validation, by a grid that is refined around its best point.
`sb3_ppo` and `own_ppo` choose settings by image, by SB3's PPO (`rl_det.strategies.settings_by_sb3`) and by our own
(`rl_det.strategies.settings_by_ppo`). Both start at the grid's point, and validation selects the model. That start is
the best of thousands of points on the same validation images, which favours it; so `sb3_ppo_last` and `own_ppo_last`
also show the last models, which are not selected. All rows are measured by the mean reward on the test images.
"""

import io
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import rl_det_envs  # noqa: F401  (registers the environments)
import torch
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rl_det import parallel
from rl_det.ap.data_set import coco_figures
from rl_det.ap.padding import pad_targets
from rl_det.data import Split
from rl_det.data.open import Source, open_data
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.finetuning.budget import BudgetName, budget_named, recipe_for
from rl_det.finetuning.circumstances import circumstances
from rl_det.finetuning.warm_start import warm_start
from rl_det.metrics.outcomes import image_counts
from rl_det.progress import bar
from rl_det.rewards import check_reward
from rl_det.settings import at_least, check_settings
from rl_det.storage.run import Run, check_run_folder
from rl_det.storage.weights import save_state, state_fingerprint
from rl_det.strategies.fixed_settings import as_action, best_on_grid, judged
from rl_det.strategies.settings_by_ppo import Progress, SettingsByPpo, learn_settings
from rl_det.strategies.settings_by_sb3 import SettingsBySb3, chosen_by, learn
from rl_det.text import printable
from rl_det.training.trackers import TrackerName, check_tracker, tracked

NUM_ENVS = 64
"""The number of SB3's training environments."""
SB3, OWN = ("sb3_ppo", "sb3_ppo_last"), ("own_ppo", "own_ppo_last")
"""The rows of each PPO: validation's best model, and the last one."""
Choose = Callable[[Tensor], Tensor]
"""Descriptions of images [B, 32] -> actions [B, 4]."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The extent of the search for settings."""

    refinements: int
    """The refinements around the grid's best point, each with half the step of the one before."""
    stride: int = 1
    """Every `stride`-th point of the grid is tried."""
    ppo: SettingsBySb3 = field(default_factory=SettingsBySb3)
    """The settings of SB3's PPO."""
    own: SettingsByPpo = field(default_factory=SettingsByPpo)
    """The settings of our PPO."""

    def __post_init__(self) -> None:
        check_settings(self, refinements=at_least(0), stride=at_least(1))


SEARCHES: dict[BudgetName, Search] = {
    "smoke": Search(
        refinements=1,
        stride=50,
        ppo=SettingsBySb3(num_steps=1024),
        own=SettingsByPpo(num_updates=4, num_validations=2),
    ),
    "short": Search(refinements=4, ppo=SettingsBySb3(num_steps=60_000), own=SettingsByPpo(num_updates=200)),
    "full": Search(refinements=5),
}


def compare_settings(
    detector: Detector,
    data: Source,
    *,
    reward: str = "f1",
    budget: BudgetName = "full",
    search: Search | None = None,
    seed: int = 0,
    out: Path | None = None,
    overwrite: bool = False,
    track: TrackerName = "tensorboard",
) -> dict[str, Any]:
    """Run the default, the grid, SB3's PPO and our own; return the contents of `results.json`.

    `out` is the run's folder, by default one in `runs/`; the models are in its `checkpoints/`. `search` defaults to
    the budget's; `track` is as in `finetune`. Sets the global seeds, as SB3 does. Raises ValueError, with nothing written, for
    arguments that do not fit together.
    """
    parallel.check_alone("tuning settings by image")
    check_reward(reward)
    check_tracker(track)
    share = budget_named(budget).warm_start_share
    splits, search = open_data(data), search or SEARCHES[budget]
    identity = {
        "experiment": "settings by image",
        "data": {"name": splits.name, **splits.fingerprints()},
        "detector": {**asdict(detector.architecture), "weights": state_fingerprint(detector.plain())},
        "reward": reward, "budget": budget, "search": asdict(search), "seed": seed,
    }  # fmt: skip
    folder = out or Path("runs") / f"settings-{splits.name}-{detector.architecture.name}-{budget}-seed{seed}"
    check_run_folder(folder, identity, resume=False, overwrite=overwrite)
    if not detector.is_trained:
        warm_start(detector, splits, recipe_for(splits).scaled(share))
    train, val, test = (environment(detector, splits, split, reward) for split in ("train", "val", "test"))
    own_train = of_samples(train, search.own, reward)
    with Run(folder, identity, circumstances(), overwrite=overwrite) as run:
        choices, seconds = chosen(train, own_train, val, search, seed, run, track)
        facts = {
            "seed": seed,
            "data": splits.name,
            "detector": detector.architecture.name,
            "device": str(detector.device),
            "reward": reward,
            "budget": budget,
        }
        results = facts | told(choices, seconds, val, test)
        run.write_results(results)
    return results


def environment(detector: Detector, data: Splits, split: Split, reward: str) -> Any:
    """The vector environment on a split: one sub-environment for each image, or a fixed number for training."""
    with bar(f"encode {split}", len(data[split])) as shown:
        encoded = encode_dataset(detector, data[split], on_batch=shown.advance)
    num_envs = min(NUM_ENVS, len(encoded)) if split == "train" else len(encoded)
    return made(detector, encoded, reward, num_envs=num_envs, credit=False)


def of_samples(train: Any, config: SettingsByPpo, reward: str) -> Any:
    """The training images of an environment in another one, with several samples of each image, for our PPO."""
    return made(
        train.detector,
        train.data,
        reward,
        num_envs=min(config.images_per_update, len(train.data)) * config.samples_per_image,
        samples_per_image=config.samples_per_image,
        credit=config.advantage == "counterfactual",
    )


def made(detector: Detector, encoded: EncodedDataset, reward: str, **options: Any) -> Any:
    """A vector environment on encoded images."""
    return gymnasium.make_vec(
        "rl_det/TunePostprocessing-v0",
        vectorization_mode="vector_entry_point",
        detector=detector,
        dataset=encoded,
        reward=reward,
        device=detector.device,
        **options,
    ).unwrapped


def chosen(
    train: Any, own_train: Any, val: Any, search: Search, seed: int, run: Run, track: TrackerName
) -> tuple[dict[str, Choose], dict[str, float]]:
    """The choosing function of each row, and its seconds; those of a PPO include the grid's."""
    started = time.perf_counter()
    grid = best_on_grid(val, refinements=search.refinements, stride=search.stride)
    of_grid = time.perf_counter() - started
    choices = {
        "default": always(as_action(val, 0.5, val.nms_iou, 0.0, val.num_candidates)),
        "fixed_by_grid": always(grid),
    }
    seconds = {"default": 0.0, "fixed_by_grid": of_grid}
    learners: dict[tuple[str, str], Callable[[], tuple[Choose, Choose]]] = {
        SB3: lambda: by_sb3(train, val, grid, search.ppo, seed, run, track),
        OWN: lambda: by_own(own_train, val, grid, search.own, seed, run, track),
    }
    for rows, learnt in learners.items():
        started = time.perf_counter()
        choices |= zip(rows, learnt(), strict=True)
        seconds |= dict.fromkeys(rows, of_grid + time.perf_counter() - started)
    return choices, seconds


def by_sb3(
    train: Any, val: Any, grid: Tensor, config: SettingsBySb3, seed: int, run: Run, track: TrackerName
) -> tuple[Choose, Choose]:
    """The choosing functions of SB3's best model and of its last."""
    with tracked(track, run.folder, SB3[0]) as write:
        log = partial(told_of, run, SB3[0], write)
        best, last = learn(train, val, grid, config, seed=seed, folder=run.checkpoints, log=log)
    return chosen_by(best), chosen_by(last)


def by_own(
    train: Any, val: Any, grid: Tensor, config: SettingsByPpo, seed: int, run: Run, track: TrackerName
) -> tuple[Choose, Choose]:
    """The choosing functions of our PPO's best policy and of its last, which are also saved."""
    with tracked(track, run.folder, OWN[0]) as write:
        progress = Progress(partial(told_of, run, OWN[0], write), train.num_envs)
        policies = learn_settings(train, val, grid, config, seed=seed, callbacks=[progress])
    for name, policy in zip(OWN, policies, strict=True):
        save_state(policy, run.checkpoints / f"{name}.safetensors")
    best, last = policies
    return best.chosen, last.chosen


def told_of(
    run: Run, stage: str, write: Callable[[Mapping[str, float], int], None], step: int, metrics: dict[str, float]
) -> None:
    """Log the metrics of a rollout, and write them to the tracker."""
    run.log(step, stage, metrics)
    write(metrics, step)


def always(action: Tensor) -> Choose:
    """A function that chooses the same action for all images."""
    return lambda seen: action.expand(len(seen), -1)


def told(choices: dict[str, Choose], seconds: dict[str, float], val: Any, test: Any) -> dict[str, Any]:
    """Each row's figures on the test split, and the difference of each PPO's rows from the grid, image by image."""
    figured = {name: figures(test, choose) for name, choose in choices.items()}
    rewards = {name: of_images for name, (_, of_images) in figured.items()}
    gains = {name: rewards[name] - rewards["fixed_by_grid"] for name in SB3 + OWN}
    settings = val.settings(choices["fixed_by_grid"](torch.zeros(1, 1)))  # the same for every image
    return {
        "seconds": {name: round(spent, 1) for name, spent in seconds.items()},
        "grid_settings": {name: value.item() for name, value in vars(settings).items()},
        "methods": {name: own for name, (own, _) in figured.items()},
        "over_grid": {
            name: {"mean": gain.mean(), "standard_error": gain.std(ddof=1) / len(gain) ** 0.5}
            for name, gain in gains.items()
        },
    }


def figures(envs: Any, choose: Choose) -> tuple[dict[str, float], Float64[np.ndarray, " D"]]:
    """The mean reward, F1 of all images together and AP; and each image's reward."""
    rewards = judged(envs, choose)
    found, truths, num_classes = envs.drawn()[1], pad_targets(envs.data.targets), envs.detector.num_classes
    c = image_counts(found, truths, num_classes=num_classes)
    own = {
        "reward": float(rewards.mean()),
        "F1": float(2 * c.found.sum() / max(1, (2 * c.found + c.spurious + c.missed).sum())),
        "AP": coco_figures(found, truths, num_classes=num_classes)["AP"],
    }
    return own, rewards


def settings_text(results: dict[str, Any]) -> str:
    """The rows, times 100, and PPO's difference from the grid, as text for a terminal."""
    table = Table(
        title=printable(f"{results['data']}, {results['detector']}, seed {results['seed']}: test split, x 100")
    )
    for name in ("method", f"mean {results['reward']}", "F1 of all", "AP", "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name, values in results["methods"].items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in values.values()), f"{results['seconds'][name]:.0f}")
    console = Console(width=100, file=io.StringIO(), color_system=None, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    lines = [
        f"{name} over fixed_by_grid, image by image: {100 * gain['mean']:+.2f}, "
        f"standard error {100 * gain['standard_error']:.2f}\n"
        for name, gain in results["over_grid"].items()
    ]
    return captured.get() + "".join(lines)
