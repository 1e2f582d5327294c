"""Question: what does a reward of one metric give by every other: is the metric that is paid the one that rises most?

Commands: python experiments/paid_and_measured.py --budget short --seed 0      # and seeds 1, 2; --data FOLDER for other images
          python experiments/paid_and_measured.py --budget short --table       # the table over these runs
Hardware, minutes and numbers: experiments/NUMBERS.md.

One PPO a reward, beside the control: continued supervised training of the head, on the same images, for as many image
passes. F1, LRP, cost and count error are each measured at the score threshold that is best for them on validation, for the
control too. All figures are times 100, so a cost is that of 100 images, and higher is better. Intervals are a paired
bootstrap over seeds and test images.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rl_det
from rl_det.ap.batch import TruthBatch
from rl_det.ap.matching import match
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.cli import parse
from rl_det.data import Dataset
from rl_det.errors import UserError
from rl_det.finetuning.budget import budget_named
from rl_det.finetuning.request import Request
from rl_det.finetuning.results import load_results, read_detections, write_detections
from rl_det.policies.detections import detect_dataset
from rl_det.program import ProgramFlags, program
from rl_det.report.bootstrap import ap_of_drawn, interval, redrawn
from rl_det.rewards import Cost, count_error, f1, lrp
from rl_det.rewards.tallied import Tallied
from rl_det.rewards.thresholds import best_threshold, tallies_at, worth_of
from rl_det.strategies.strategy import given

METRICS: dict[str, CocoOptions | Tallied] = {
    "mAP": COCO,
    "AP50": replace(COCO, iou_thresholds=(0.5,)),
    "F1": f1,
    "1 - LRP": lrp,
    "cost": Cost(),
    "count error": count_error,
}


@dataclass(frozen=True, kw_only=True)
class Flags(Request, ProgramFlags):
    """Tune by every reward with one seed, or print the table."""

    rewards: tuple[str, ...] = ("pool_ap", "ap50", "pool_f1", "lrp", "pool_cost", "count_error")
    """What is paid, one PPO each."""
    seed: int = 0
    num_updates: int | None = None
    """The budget's number of updates; left out: as the budget has it."""
    out: Path = Path("runs/paid_and_measured")
    table: bool = False
    """Print the table of all runs in the folder instead."""
    over: str = "continued_supervised"
    """The row from which the table gives the differences."""
    draws: int = 400
    """How often the table's seeds and images are redrawn."""


def run(flags: Flags) -> None:
    """One seed: the control and one PPO a reward; the rows' detections on validation are kept beside the run."""
    data, detector = flags.open()
    budget = budget_named(flags.budget)
    result = rl_det.finetune(
        detector,
        data,
        *(rl_det.PPO(name=reward, reward=reward) for reward in flags.rewards),
        budget=replace(budget, num_updates=given(flags.num_updates, budget.num_updates), fit_evaluations=0),
        seed=flags.seed,
        out=flags.out / f"seed{flags.seed}",
        encodings=flags.out / "encodings",
        **flags.keywords(),
        resume=True,
    )
    for name, row in result.rows.items():
        assert row.tuned is not None
        found, _ = detect_dataset(row.tuned.policy, data.val, row.tuned.num_candidates)
        write_detections(validation_of(result.folder), name, pad_detections(found))
    print(result.table())


def validation_of(folder: Path) -> Path:
    """The folder of a run's detections on validation."""
    own = folder / "validation"
    own.mkdir(exist_ok=True)
    return own


def table(flags: Flags) -> None:
    """The mean over seeds of each row's figures, and the differences from another row with their intervals."""
    data, _ = flags.open()
    val, test, folders = truths_of(data.val), truths_of(data.test), sorted(flags.out.glob("seed*"))
    if not folders:
        raise UserError(
            f"{flags.out}: must hold finished runs; there is none (seed*/); run a seed first, without --table"
        )
    names = list(load_results(folders[0]).rows)
    if flags.over not in names:
        raise UserError(f"--over must be one of {', '.join(names)}; got {flags.over}")
    num_classes, cells = len(data.classes), {name: list[str]() for name in names}
    for metric in METRICS.values():
        measured = {
            name: [[measure(metric, folder, name, val, test, num_classes)] for folder in folders] for name in names
        }
        rng = np.random.default_rng(0)
        drawn = redrawn(measured, figure_of(metric, num_classes), num_draws=flags.draws, rng=rng)
        for name in names:
            over = interval(drawn[name] - drawn[flags.over])
            difference = f"{100 * over.value:+.2f} ({100 * over.low:+.2f} to {100 * over.high:+.2f})"
            cells[name].append(f"{100 * drawn[name][0]:.2f}" + (f"; {difference}" if name != flags.over else ""))
    print(f"| what was paid | {' | '.join(METRICS)} |\n| --- |{' ---: |' * len(METRICS)}")
    print("\n".join(f"| {name} | {' | '.join(own)} |" for name, own in cells.items()))


def measure(
    metric: CocoOptions | Tallied, folder: Path, name: str, val: TruthBatch, test: TruthBatch, num_classes: int
) -> Any:
    """What the metric is computed from, image by image of test: matches, or tallies at validation's best threshold."""
    found = read_detections(folder, name)
    if isinstance(metric, CocoOptions):
        return match(found, test, num_classes=num_classes, options=metric)
    best = best_threshold(metric, read_detections(validation_of(folder), name), val, num_classes=num_classes)
    return tallies_at(found, test, best.threshold, num_classes=num_classes)


def figure_of(metric: CocoOptions | Tallied, num_classes: int) -> Callable[[Any, Any], float]:
    """(what `measure` gave, images) -> the metric of these images."""
    if isinstance(metric, CocoOptions):
        return partial(ap_of_drawn, options=metric)
    return lambda tallies, images: worth_of(metric, tallies[images], num_classes)


def truths_of(images: Dataset) -> TruthBatch:
    """The true boxes of a split."""
    return pad_targets([images[index].target for index in range(len(images))])


if __name__ == "__main__":
    with program():
        chosen = parse(Flags)
        table(chosen) if chosen.table else run(chosen)
