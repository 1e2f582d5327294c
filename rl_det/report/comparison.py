"""The table in Markdown and the picture of a comparison of strategies, with intervals."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rl_det.storage.files import write_with

FIGURES = ("AP50", "AP75", "F1", "calibration_error")
HEADERS = ("method", "AP", "AP50", "AP75", "F1", "D-ECE", "AP over control", "seconds")


def markdown(compared: dict[str, Any]) -> str:
    """The table in Markdown: means over the seeds, times 100, with 95 % intervals over seeds and test images in brackets."""
    rows: list[Sequence[str]] = [HEADERS, ("---", *["---:"] * (len(HEADERS) - 1))]
    for name, method in compared["methods"].items():
        figures = [f"{100 * mean(seed[figure] for seed in method['figures']):.2f}" for figure in FIGURES]
        seconds = f"{mean(method['seconds']):.0f}"
        rows.append(
            (name, _with_interval(method["AP"]), *figures, _with_interval(method["over_control"], "+"), seconds)
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


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
    axes.set_yticks(range(len(methods)), [name.replace("_", " ") for name, _ in methods])
    axes.set_xlabel("mAP over continued supervised training, times 100;\n95 % over seeds and test images")
    seeds, images = len(compared["seeds"]), compared["images"]["test"]
    axes.set_title(
        f"{Path(compared['data']).name}, {compared['detector']}, {seeds} seeds, {images} test images", fontsize=10
    )
    axes.grid(axis="x", alpha=0.3)
    write_with(path, lambda file: figure.savefig(file, dpi=130, format="png"))


def _with_interval(figure: dict[str, float], sign: str = "") -> str:
    value, low, high = (f"{100 * figure[key]:{sign}.2f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
