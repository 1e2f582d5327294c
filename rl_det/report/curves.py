"""Draw the learning curves of several seeds: a line for their mean, a band from the lowest to the highest."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes


def draw_band(
    axes: Axes, steps: Sequence[int], curves: Float64[np.ndarray, "seeds steps"], *, label: str, colour: str
) -> None:
    """Add one row's curves to the axes; all seeds must be measured at the same steps."""
    if curves.shape[1] != len(steps):
        raise ValueError(f"curves must have a value at each of the {len(steps)} steps; got {curves.shape[1]}")
    axes.plot(steps, curves.mean(0), label=label, color=colour)
    axes.fill_between(steps, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0)
