"""Question: what do votes, fitted post-processing and PPO give to a detector of real size on real photographs?

Commands: python experiments/benchmarks/real_detector.py --data ../shared/data/bccd --seed 0      # and seeds 1, 2; dsb2018
          rl-det report runs/real_detector/bccd-mobilenet-320/seed*                               # the table over these runs
Hardware, minutes and numbers: experiments/benchmarks/README.md.

`--detector mobilenet` is a Faster R-CNN whose MobileNetV2 was trained on ImageNet (`../shared/weights`); `--detector tiny` is
the small detector of digit scenes, from random weights. Both are trained on the data once, and all seeds and strategies start
there. The control is continued supervised training of the head, on the same images, for as many image passes. Every row
is there without and with post-processing fitted to validation images. Intervals are a paired bootstrap over seeds and images.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from mobilenet import mobilenet_faster_rcnn

import rl_det
from rl_det.data.splits import Splits
from rl_det.detectors import Detector, load_state
from rl_det.finetuning.budget import BUDGETS, PHOTO_RECIPE, Recipe
from rl_det.program import program

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights" / "mobilenet_v2-b0353104.pth"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Tune one detector on one data set with one seed."""

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


if __name__ == "__main__":
    with program():
        run(tyro.cli(Flags, description=__doc__))
