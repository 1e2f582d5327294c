"""The picture of a comparison of strategies: each row's gain over the control."""

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rl_det.report.figures import save
from rl_det.storage.files import write_with
from rl_det.text import printable

TITLE_WIDTH = 80
"""The characters of a line of a picture's title."""


def draw_comparison(compared: dict[str, Any], path: Path) -> None:
    """Draw a PNG: each row's AP over the control's, with its interval, the best on top."""
    methods = sorted(compared["methods"].items(), key=lambda item: item[1]["over_control"]["value"])
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    gains = [{key: 100 * value for key, value in method["over_control"].items()} for _, method in methods]
    values = [gain["value"] for gain in gains]
    below = [max(0.0, gain["value"] - gain["low"]) for gain in gains]
    above = [max(0.0, gain["high"] - gain["value"]) for gain in gains]
    axes.axvline(0, color="0.6", linewidth=1)
    axes.errorbar(values, range(len(methods)), xerr=(below, above), fmt="o", color="tab:blue", ecolor="tab:blue")
    axes.set_yticks(range(len(methods)), [printable(name.replace("_", " ")) for name, _ in methods])
    control = compared.get("control", "continued supervised training").replace("_", " ")
    axes.set_xlabel(f"mAP over {printable(control)}, times 100;\n95 % over seeds and test images")
    seeds = "1 seed" if len(compared["seeds"]) == 1 else f"{len(compared['seeds'])} seeds"
    images = f"{compared['images']['test']} test images"
    folds = [f"{compared['folds']} folds"] if "folds" in compared else []
    title = ", ".join([Path(compared["data"]).name, compared["detector"], seeds, *folds, images])
    axes.set_title(textwrap.fill(printable(title), TITLE_WIDTH), fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    write_with(path, lambda file: save(figure, file, form="png", dpi=130))
