"""A picture of the precision-recall curves of all classes."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rl_det.ap.options import IOU_THRESHOLDS, RECALL_POINTS
from rl_det.report.figures import save
from rl_det.report.precision_recall import Curves
from rl_det.storage.files import write_with
from rl_det.text import printable

MOST_COLOURS = 10
"""With more classes, a picture names only the worst ones and draws the others grey."""


def draw_curves(curves: Curves, path: Path, title: str) -> None:
    """Draw a PNG: the curves at IoU 0.5, and the means over all ten thresholds, whose areas are the classes' AP."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    last = f"{IOU_THRESHOLDS[0]:.2f} to {IOU_THRESHOLDS[-1]:.2f}"
    _draw(left, curves, curves.precision[0], f"IoU {IOU_THRESHOLDS[0]:.2f}")
    _draw(right, curves, curves.precision.mean(0), f"mean over IoU {last}")
    left.set_ylabel("precision")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", title="AP", fontsize="small")
    figure.suptitle(printable(title))
    write_with(path, lambda file: save(figure, file, form="png", dpi=110))


def _draw(axes: Axes, curves: Curves, precision: Float64[np.ndarray, "R C"], title: str) -> None:
    """Draw one line for each class that exists, coloured by its rank in AP, and the mean of several in black."""
    aps = {name: ap for name, ap in curves.class_ap.items() if not np.isnan(ap)}
    worst_first = sorted(aps, key=lambda name: aps[name])
    columns = dict(zip(curves.classes, precision.T, strict=True))
    for rank, name in enumerate(worst_first):
        (line,) = axes.plot(RECALL_POINTS, columns[name], linewidth=1, color="0.8", zorder=1)
        if rank < MOST_COLOURS:
            line.set(color=f"C{rank}", zorder=2, label=f"{printable(name)} {100 * aps[name]:.1f}")
    if len(aps) > 1:
        mean = np.mean([columns[name] for name in aps], axis=0)
        label = f"all {100 * np.mean(list(aps.values())):.1f}"
        axes.plot(RECALL_POINTS, mean, color="black", linewidth=2, zorder=3, label=label)
    axes.set(title=title, xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
