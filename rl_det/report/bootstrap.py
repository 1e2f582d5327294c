"""Bootstrap intervals over seeds and test images, for several rows on the same images.

Efron and Tibshirani 1993, chapter 13: percentiles of the figure on data sets that are drawn with replacement from the
present one. Each draw uses the same images and seeds for all rows, so a difference of two rows compares the same
images.
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
    methods: Mapping[str, Sequence[Matches]],
    *,
    num_draws: int,
    rng: np.random.Generator,
    on_draw: Callable[[], None] = lambda: None,
) -> dict[str, Float64[np.ndarray, " D"]]:
    """Each row's AP, as a mean over redrawn seeds, on redrawn images; each draw is the same for all rows.

    `methods` maps a row's name to its matches for each seed. The first value is that of the images and seeds as they
    are. Raises ValueError unless all rows have the same number of seeds and of images.
    """
    shapes = {(len(seeds), len(matches)) for seeds in methods.values() for matches in seeds}
    if len(shapes) != 1:
        raise ValueError(
            f"all methods must have as many seeds, on as many images; got (seeds, images) {sorted(shapes)}"
        )
    num_seeds, num_images = shapes.pop()
    found: dict[str, list[float]] = {name: [] for name in methods}
    for draw in range(num_draws + 1):
        seeds = rng.integers(0, num_seeds, num_seeds) if draw else np.arange(num_seeds)
        images = rng.integers(0, num_images, num_images) if draw else np.arange(num_images)
        for name, runs in methods.items():
            alone = {seed: mean_ap(runs[seed], images) for seed in set(seeds.tolist())}
            found[name].append(float(np.mean([alone[seed] for seed in seeds.tolist()])))
        on_draw()
    return {name: np.array(values) for name, values in found.items()}


def interval(redrawn: Float64[np.ndarray, " D"]) -> Interval:
    """The first value, which is the measured one, with percentiles of the others."""
    low, high = np.quantile(redrawn[1:], [(1 - COVERED) / 2, (1 + COVERED) / 2]) if len(redrawn) > 1 else 2 * [np.nan]
    return Interval(value=float(redrawn[0]), low=float(low), high=float(high))
