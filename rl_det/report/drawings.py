"""Drawings for a page: curves, bars and intervals as inline SVG, whose words and axes take the colour of the page's text."""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rl_det.report.figures import SVG_DPI, save
from rl_det.report.html import Key, Svg
from rl_det.text import printable

BEFORE, AFTER = "#8a8f98", "#2f7ed8"
"""Colours with a contrast of 3 at least on a white and on a nearly black page."""
COLOURS = (AFTER, "#c2571a", "#1a8f6a", "#b1478f", "#8c7a1f", "#7a68d8", "#cc4b4b", "#3a8fa3")
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
INK = "#010203"
"""A colour that nothing else has; in the SVG it becomes the page's."""
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "rl_det", "text.parse_math": False, "font.size": 10, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "grid.color": INK, "grid.alpha": 0.15, "axes.grid": True, "axes.axisbelow": True,
}  # fmt: skip
"""Words stay words, and a dollar in a class name is a dollar."""


def keys_of(names: Sequence[str]) -> list[Key]:
    """A colour and a dash pattern for each name; two names have both the same only if all pairs are taken."""
    return [
        Key(name=name, colour=COLOURS[k % len(COLOURS)], dashes=DASHES[(k + k // len(COLOURS)) % len(DASHES)])
        for k, name in enumerate(names)
    ]


def before_after(before: str, after: str) -> list[Key]:
    """The legend of a drawing with two rows."""
    return [Key(name=f"before: {before}", colour=BEFORE, dashes="7 3"), Key(name=f"after: {after}", colour=AFTER)]


def lines_drawing(
    lines: Sequence[tuple[Key, Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    square: bool = False,
    size: tuple[float, float] = (4.6, 2.9),
) -> Svg:
    """Lines through points (x, y); points that do not exist are left out. `square` is the unit square with its diagonal."""

    def draw(axes: Axes) -> None:
        if square:
            axes.plot([0, 1], [0, 1], color=INK, linewidth=1, alpha=0.4)
        for key, x, y in lines:
            marker = "o" if len(x) < 30 else None
            axes.plot(x, y, color=key.colour, dashes=_dashes(key), linewidth=2, marker=marker, markersize=3)
        axes.set(xlabel=x_label, ylabel=printable(y_label))
        if square:
            axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")

    return _svg(draw, size)


def recall_drawing(before: Sequence[float], after: Sequence[float], recalls: Sequence[float]) -> Svg:
    """One class's precision at each recall before and after, small."""

    def draw(axes: Axes) -> None:
        for key, curve in zip(before_after("", ""), (before, after), strict=True):
            axes.plot(recalls, curve, color=key.colour, dashes=_dashes(key), linewidth=1.8)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_xticklabels(["0", "0.5", "1"])
        axes.set_yticklabels(["0", "0.5", "1"])

    return _svg(draw, (2.1, 1.7))


def bars_drawing(names: Sequence[str], before: Sequence[float], after: Sequence[float], *, x_label: str) -> Svg:
    """Two horizontal bars for each name, the first name on top."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(names))[::-1]
        axes.barh(places + 0.2, np.nan_to_num(before), height=0.36, color=BEFORE)
        axes.barh(places - 0.2, np.nan_to_num(after), height=0.36, color=AFTER)
        axes.set_yticks(places, [printable(name) for name in names])
        axes.set_xlabel(x_label)
        axes.grid(visible=False, axis="y")

    return _svg(draw, (4.6, 0.8 + 0.42 * max(1, len(names))))


def intervals_drawing(intervals: Mapping[str, tuple[float, float, float]], *, x_label: str) -> Svg:
    """A point for each name with its interval (value, low, high), in the given order from the top, and a line at 0."""

    def draw(axes: Axes) -> None:
        places = list(range(len(intervals)))[::-1]
        axes.axvline(0, color=INK, linewidth=1, alpha=0.5)
        for place, (value, low, high) in zip(places, intervals.values(), strict=True):
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([low, high], [place, place], color=AFTER, linewidth=2)
            axes.plot([value], [place], color=AFTER, marker="o", markersize=5)
        axes.set_yticks(places, [printable(name) for name in intervals])
        axes.set_ylim(-0.6, len(intervals) - 0.4)
        axes.set_xlabel(x_label)
        axes.grid(visible=False, axis="y")

    return _svg(draw, (6.4, 0.8 + 0.3 * max(1, len(intervals))))


def _dashes(key: Key) -> tuple[float, ...]:
    """matplotlib's form, in widths of the line."""
    return () if key.dashes == "none" else tuple(float(part) / 2 for part in key.dashes.split())


def _svg(draw: Callable[[Axes], None], size: tuple[float, float]) -> Svg:
    """The drawing as an element for HTML: without the file's head, with names that no other drawing of the page has."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has its own fonts
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        written = io.StringIO()
        save(figure, written, form="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<defs>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*; ?", "", body).replace("xlink:href", "href").replace(INK, "currentColor")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]*)', body))
    body = re.sub(r' id="([^"]*)"', lambda own: own[0] if own[1] in used else "", body)
    name = hashlib.sha256(body.encode()).hexdigest()[:8]
    body = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>d{name}-", body)
    return Svg(SVG_DPI * size[0], SVG_DPI * size[1], re.sub(r"\n\s*", "\n", body).strip())
