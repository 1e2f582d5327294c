"""A figure is saved as matplotlib saves it, in less time."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rl_det.report.figures import save


def drawn(canvas: Callable[[Figure], object], layout: str) -> Figure:
    figure = Figure(figsize=(5, 3), layout=layout)
    canvas(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    left.plot([0, 1e6], [0, 1], label="one")
    right.barh(["a long name", "another"], [0.25, 1.5])
    left.set(xlabel="x", ylabel="y", title="a title")
    figure.suptitle("above")
    figure.legend(*left.get_legend_handles_labels())
    return figure


@pytest.mark.parametrize("layout", ["constrained", "tight", "none"])
def test_a_png_has_the_bytes_that_matplotlib_writes(layout: str, tmp_path: Path) -> None:
    save(drawn(FigureCanvasAgg, layout), tmp_path / "ours", form="png", dpi=70)
    drawn(FigureCanvasAgg, layout).savefig(tmp_path / "theirs", format="png", dpi=70)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_an_svg_has_the_text_that_matplotlib_writes() -> None:
    ours, theirs = io.StringIO(), io.StringIO()
    with rc_context({"svg.hashsalt": "of this test"}):
        save(drawn(FigureCanvasSVG, "constrained"), ours, form="svg", metadata={"Date": None})
        drawn(FigureCanvasSVG, "constrained").savefig(theirs, format="svg", metadata={"Date": None})
    assert ours.getvalue() == theirs.getvalue()


def test_the_figure_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, drawings = drawn(FigureCanvasAgg, "constrained"), []
    plain = figure.draw
    monkeypatch.setattr(figure, "draw", lambda renderer: (drawings.append(renderer), plain(renderer)))
    save(figure, tmp_path / "once.png", form="png")
    assert len(drawings) == 1


def test_a_dollar_in_a_name_begins_no_formula(tmp_path: Path) -> None:
    figure = drawn(FigureCanvasAgg, "constrained")
    figure.axes[0].set_title("$x^2_$")
    figure.axes[0].text(0, 0, "$^$")
    figure.axes[1].set_yticks([0, 1], ["$_$", "b"])
    figure.suptitle("$x$ and $_$")
    save(figure, tmp_path / "dollars.png", form="png")
    assert (tmp_path / "dollars.png").stat().st_size
