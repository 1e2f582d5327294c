"""Bootstrap intervals over seeds and test images, for several rows on the same images, in one fold or in several.

Efron and Tibshirani 1993, chapter 13: percentiles of the figure on data sets that are drawn with replacement from the
present one. Each draw uses the same images and seeds for all rows, so a difference of two rows compares the same
images. The detections of several folds never rank together, as they are of different detectors, whose scores do not mean
the same: AP is computed in each fold, and averaged.
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from rl_det.ap.data_set import class_ap
from rl_det.ap.matching import Matches
from rl_det.ap.options import COCO, CocoOptions

COVERED = 0.95
Images = TypeVar("Images", bound=Sized)
"""What a figure of some images is computed from, such as their matches."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure, and the interval that holds 95 % of its redrawn values."""

    value: float
    low: float
    high: float


def ap_of_drawn(matches: Matches, images: Int64[np.ndarray, " D"], options: CocoOptions = COCO) -> float:
    """COCO's AP of these images as a data set, some of them several times, in [0, 1]; NaN without a true box.

    `options` are those of the matching.
    """
    aps = class_ap(matches[images], options)[0]
    present = ~np.isnan(aps[0])
    return float(aps[:, present].mean()) if present.any() else float("nan")


def redrawn_ap(
    methods: Mapping[str, Sequence[Sequence[Matches]]],
    *,
    num_draws: int,
    rng: np.random.Generator,
    on_draw: Callable[[], None] = lambda: None,
) -> dict[str, Float64[np.ndarray, " D"]]:
    """`redrawn` with COCO's AP as the figure, from matches."""
    return redrawn(methods, ap_of_drawn, num_draws=num_draws, rng=rng, on_draw=on_draw)


def redrawn(
    methods: Mapping[str, Sequence[Sequence[Images]]],
    figure: Callable[[Images, Int64[np.ndarray, " D"]], float],
    *,
    num_draws: int,
    rng: np.random.Generator,
    on_draw: Callable[[], None] = lambda: None,
) -> dict[str, Float64[np.ndarray, " D"]]:
    """Each row's figure, as a mean over redrawn seeds and over all folds, on images redrawn in each fold.

    `methods` maps a row's name to what the figure takes, for each seed that of each fold; without folds, there is one. Each
    draw is the same for all rows. The first value is that of the images and seeds as they are. A fold whose redrawn images
    have no figure (AP without a true box) is left out of that draw's mean; without any, it is NaN. Raises ValueError unless
    all rows have the same number of seeds, and of images in each fold.
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
            alone = {seed: _mean_over_folds(runs[seed], images, figure) for seed in set(seeds.tolist())}
            found[name].append(float(np.mean([alone[seed] for seed in seeds.tolist()])))
        on_draw()
    return {name: np.array(values) for name, values in found.items()}


def _mean_over_folds(
    folds: Sequence[Images],
    images: Sequence[Int64[np.ndarray, " _"]],
    figure: Callable[[Images, Int64[np.ndarray, " D"]], float],
) -> float:
    """The mean of the figure of each fold's images, where there is one; NaN where there is none."""
    figures = np.array([figure(own, drawn) for own, drawn in zip(folds, images, strict=True)])
    present = figures[~np.isnan(figures)]
    return float(present.mean()) if present.size else float("nan")


def interval(redrawn: Float64[np.ndarray, " D"]) -> Interval:
    """The first value, which is the measured one, with percentiles of the others.

    A draw without a true box, as of few images with objects, has no figure, and is left out.
    """
    drawn = redrawn[1:][~np.isnan(redrawn[1:])]
    low, high = np.quantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2]) if len(drawn) else 2 * [np.nan]
    return Interval(value=float(redrawn[0]), low=float(low), high=float(high))
