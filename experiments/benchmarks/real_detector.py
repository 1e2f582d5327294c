"""Question: what do votes, fitted post-processing and PPO give to a detector of real size on real photographs?

Commands: python experiments/benchmarks/real_detector.py --data ../shared/data/bccd --seed 0      # and seeds 1, 2; dsb2018
          python experiments/benchmarks/real_detector.py --data ../shared/data/bccd --table       # the table over these runs
Hardware, minutes and numbers: experiments/README.md.

`--detector mobilenet` is a Faster R-CNN whose MobileNetV2 was trained on ImageNet (`../shared/weights`); `--detector tiny` is
the small detector of digit scenes, from random weights. Both are trained on the data once, and all seeds and strategies start
there. The control is continued supervised training of the head, on the same images, for as many image passes. Every row
is there without and with post-processing fitted to validation images. Intervals are a paired bootstrap over seeds and images.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from mobilenet import mobilenet_faster_rcnn

import rl_det
from rl_det.ap.matching import match
from rl_det.ap.padding import pad_targets
from rl_det.data.splits import Splits
from rl_det.detectors import Detector, load_state
from rl_det.finetuning.budget import BUDGETS, PHOTO_RECIPE, Recipe
from rl_det.finetuning.results import Results, load_results, read_detections
from rl_det.program import program
from rl_det.report.bootstrap import interval, redrawn_ap

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights" / "mobilenet_v2-b0353104.pth"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Tune one detector on one data set with one seed, or print the table."""

    data: Path
    detector: Literal["mobilenet", "tiny"] = "mobilenet"
    image_size: int = 320
    """The shorter side."""
    weights: Path = WEIGHTS
    """The MobileNetV2's, trained on ImageNet."""
    start: Path | None = None
    """A state of the mobilenet to start from; left out: a warm start, which is kept for all seeds."""
    seed: int = 0
    steps: int = 800
    """Of the warm start, of 8 images each."""
    updates: int = 150
    """Of the control and of PPO, of 48 images each, in two passes."""
    views: int = 4
    """Of each training image."""
    out: Path = Path("runs/real_detector")
    table: bool = False
    """Print the table of all runs of this detector and this data instead."""


def recipe_of(flags: Flags) -> Recipe:
    """The recipe for photographs with the flags' number of steps and one validation in ten of them."""
    return replace(PHOTO_RECIPE, num_steps=flags.steps, validate_every=max(1, flags.steps // 10), num_workers=1)


def detector_of(flags: Flags, data: Splits) -> Detector:
    """The detector, not trained on the data yet."""
    if flags.detector == "tiny":
        return rl_det.load_detector("tiny", data, weights="none", image_size=flags.image_size)
    torch.manual_seed(0)  # all seeds share the warm start, whose key holds the weights before it
    model = mobilenet_faster_rcnn(
        len(data.classes), flags.image_size, flags.weights, num_channels=64, representation_size=256
    )
    if flags.start is not None:
        load_state(model, flags.start)
    detector = rl_det.load_detector(model, data)
    detector.is_trained = flags.start is not None  # else a warm start comes first
    return detector


def folder_of(flags: Flags) -> Path:
    """Where the runs of this detector and this data lie."""
    return flags.out / f"{flags.data.name}-{flags.detector}-{flags.image_size}"


def run(flags: Flags) -> None:
    """One seed: warm start (once for all seeds), control, hand-set votes, PPO; each with fitted post-processing, too."""
    data = rl_det.open_data(flags.data)
    result = rl_det.finetune(
        detector_of(flags, data),
        data,
        rl_det.PPO(),
        budget=replace(BUDGETS["short"], num_updates=flags.updates, max_views=flags.views),
        recipe=recipe_of(flags),
        seed=flags.seed,
        out=folder_of(flags) / f"seed{flags.seed}",
        encodings=folder_of(flags) / "encodings",
        resume=True,
    )
    print(result.table())


def table(flags: Flags) -> None:
    """The mean over seeds, the lowest and the highest; intervals over the control, alone, with votes and fitted."""
    folders = sorted(folder_of(flags).glob("seed*"))
    runs = [load_results(folder) for folder in folders]
    data = rl_det.open_data(flags.data)
    truths = pad_targets([data.test[index].target for index in range(len(data.test))])
    matches = {
        name: [[match(read_detections(folder, name), truths, num_classes=len(data.classes))] for folder in folders]
        for name in runs[0].rows
    }
    redrawn = redrawn_ap(matches, num_draws=400, rng=np.random.default_rng(0))
    control = runs[0].control
    print("| row | AP | AP50 | AP75 | F1 | AP over control | over control with votes | over fitted control | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in runs[0].rows:
        over = [
            interval(redrawn[name] - redrawn[other]) for other in (control, f"{control}_voted", f"{control}_fitted")
        ]
        figures = " | ".join(spread(runs, name, figure) for figure in ("AP", "AP50", "AP75", "F1"))
        told = " | ".join(f"{100 * i.value:+.2f} ({100 * i.low:+.2f} to {100 * i.high:+.2f})" for i in over)
        print(f"| {name} | {figures} | {told} | {np.mean([run.rows[name].seconds for run in runs]):.0f} |")


def spread(runs: list[Results], name: str, figure: str) -> str:
    """The mean of a row's figure over the runs, with the lowest and the highest, times 100."""
    rows = [run.rows[name] for run in runs]
    values = [row.displayed.f1 if figure == "F1" else row.figures[figure] for row in rows]
    return f"{100 * np.mean(values):.2f} ({100 * min(values):.2f} to {100 * max(values):.2f})"


if __name__ == "__main__":
    with program():
        chosen = tyro.cli(Flags, description=__doc__)
        table(chosen) if chosen.table else run(chosen)
