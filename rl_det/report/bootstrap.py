"""Bootstrap intervals over seeds and test images, for several rows on the same images, in one fold or in several.

Efron and Tibshirani 1993, chapter 13: percentiles of the figure on data sets that are drawn with replacement from the
present one. Each draw uses the same images and seeds for all rows, so a difference of two rows compares the same
images. The detections of several folds never rank together, as they are of different detectors, whose scores do not mean
the same: AP is computed in each fold, and averaged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from rl_det.ap.data_set import class_ap
from rl_det.ap.matching import Matches

COVERED = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure, and the interval that holds 95 % of its redrawn values."""

    value: float
    low: float
    high: float


def mean_ap(matches: Matches, images: Int64[np.ndarray, " D"]) -> float:
    """COCO's AP of these images as a data set, some of them several times, in [0, 1]; NaN without a true box."""
    aps = class_ap(matches[images])[0]
    present = ~np.isnan(aps[0])
    return float(aps[:, present].mean()) if present.any() else float("nan")


def redrawn_ap(
    methods: Mapping[str, Sequence[Sequence[Matches]]],
    *,
    num_draws: int,
    rng: np.random.Generator,
    on_draw: Callable[[], None] = lambda: None,
) -> dict[str, Float64[np.ndarray, " D"]]:
    """Each row's AP, as a mean over redrawn seeds and over all folds, on images redrawn in each fold.

    `methods` maps a row's name to its matches, for each seed those of each fold; without folds, there is one. Each draw is
    the same for all rows. The first value is that of the images and seeds as they are. A fold whose redrawn images hold no
    true box is left out of that draw's mean; without any true box, it is NaN. Raises ValueError unless all rows have the
    same number of seeds, and of images in each fold.
    """
    shapes = {(len(seeds), *map(len, folds)) for seeds in methods.values() for folds in seeds}
    if len(shapes) != 1:
        raise ValueError(
            f"all methods must have as many seeds, on as many images; got (seeds, images of each fold) {sorted(shapes)}"
        )
    num_seeds, *num_images = shapes.pop()
    found: dict[str, list[float]] = {name: [] for name in methods}
    for draw in range(num_draws + 1):
        seeds = rng.integers(0, num_seeds, num_seeds) if draw else np.arange(num_seeds)
        images = [rng.integers(0, count, count) if draw else np.arange(count) for count in num_images]
        for name, runs in methods.items():
            alone = {seed: _mean_over_folds(runs[seed], images) for seed in set(seeds.tolist())}
            found[name].append(float(np.mean([alone[seed] for seed in seeds.tolist()])))
        on_draw()
    return {name: np.array(values) for name, values in found.items()}


def _mean_over_folds(folds: Sequence[Matches], images: Sequence[Int64[np.ndarray, " _"]]) -> float:
    """The mean of the AP of each fold's images, where there is a true box; NaN where there is none."""
    aps = np.array([mean_ap(matches, own) for matches, own in zip(folds, images, strict=True)])
    present = aps[~np.isnan(aps)]
    return float(present.mean()) if present.size else float("nan")


def interval(redrawn: Float64[np.ndarray, " D"]) -> Interval:
    """The first value, which is the measured one, with percentiles of the others."""
    low, high = np.quantile(redrawn[1:], [(1 - COVERED) / 2, (1 + COVERED) / 2]) if len(redrawn) > 1 else 2 * [np.nan]
    return Interval(value=float(redrawn[0]), low=float(low), high=float(high))
