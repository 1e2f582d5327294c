"""Tables of the results of one run or of several seeds, for a terminal or for Markdown; AP figures times 100."""

import io
import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from rl_det.errors import UserError
from rl_det.text import printable

TABLE_FIGURES = ("AP", "AP50", "AP75", "F1", "F1_by_class", "calibration_error")
WIDTH = 240
"""The maximum width of a table, in characters; it is as wide as its texts need."""
HEADERS = ("AP", "AP50", "AP75", "F1", "F1 by class", "D-ECE")
DIFFERENCES = {
    "over_control": "AP over control",
    "over_voted_control": "AP over voted control",
    "over_fitted_control": "AP over fitted control",
}
"""The columns of differences: from the control, and from its rows with hand-set votes and with fitted post-processing; each is
there if the results hold it."""


def figures_of(run: Mapping[str, Any], name: str) -> dict[str, float | None]:
    """A row's figures on test; F1 at the threshold that is best on validation, and at those best there for each class.

    `run` is the contents of `results.json`. What a run has not written, or what does not exist, is None.
    """
    f1, by_class = (run.get(key, {}).get(name) for key in ("F1_at_validations_threshold", "F1_at_class_thresholds"))
    figures = {**run["methods"][name], "F1": f1, "F1_by_class": by_class}
    return {key: None if value is None or math.isnan(value) else value for key, value in figures.items()}


def table_text(runs: Sequence[dict[str, Any]]) -> str:
    """The rows of one run or of several seeds as text for a terminal, with their AP minus the control's."""
    first = runs[0]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    table = Table(title=printable(f"{first['data']}, {first['detector']}, seed {seeds}: test split, x 100"))
    header, *rows = table_rows(runs)
    for name in header:
        table.add_column(printable(name), justify="left" if name == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(width=WIDTH, file=io.StringIO(), color_system=None, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def endings_text(endings: Mapping[str, Any]) -> str:
    """Lines for rows that ended early, skipped updates, left their bounds, or never beat their start, whose figures mislead."""
    lines = []
    for name, ending in endings.items():
        if ending.reason != "budget":
            detail = f" ({ending.detail})" if ending.detail else ""
            updates = "1 update" if ending.update == 1 else f"{ending.update} updates"
            lines.append(f"{name} ended after {updates}: {ending.reason}{detail}")
        if ending.skipped:
            were = "1 update was" if ending.skipped == 1 else f"{ending.skipped} updates were"
            lines.append(f"{name}: {were} skipped; first: {ending.first_skipped}")
        if ending.out_of_bounds:
            lines.append(f"{name} was out of bounds: {ending.out_of_bounds}")
        if ending.best_update == 0:
            lines.append(f"{name} is its own start: no later weights were better on validation")
    return "".join(f"{printable(line)}\n" for line in lines)


def markdown_table(runs: Sequence[dict[str, Any]]) -> str:
    """The same rows over several seeds, in Markdown: the mean, with the lowest and the highest in brackets.

    Raises ValueError if the runs have different rows or different data.
    """
    check_same_rows(runs)
    return table_of(table_rows(runs))


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its header, and the first column its only one of words."""
    header, *others = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(printable, row)) + " |" for row in [header, rule, *others])


def check_same_rows(runs: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if the runs have different rows or different data."""
    for run in runs[1:]:
        for what, own, first in (
            ("data", run["data"], runs[0]["data"]),
            ("rows", list(run["methods"]), list(runs[0]["methods"])),
        ):
            if own != first:
                raise UserError(f"the runs must have the same {what}; got {first} and {own}")


def table_rows(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The header and the rows of the table of one run or of several seeds, as texts."""
    first = runs[0]
    control = first["control"]
    compared_with = control if control == next(iter(first["methods"])) else "control"  # a run without the control
    of_rows = first.get("intervals", {}).values() if len(runs) == 1 else ()
    others = [key for key in DIFFERENCES if key != "over_control" and of_rows and all(key in own for own in of_rows)]
    rows = [["method", *HEADERS, f"AP over {compared_with}", *(DIFFERENCES[key] for key in others), "seconds"]]
    for method in first["methods"]:
        rows_figures = [figures_of(run, method) for run in runs]
        figures = [[own[name] for own in rows_figures] for name in TABLE_FIGURES]
        gains = [run["methods"][method]["AP"] - run["methods"][control]["AP"] for run in runs]
        seconds = [run["seconds"].get(method) for run in runs]
        intervals = first["intervals"][method] if len(runs) == 1 and "intervals" in first else {}
        ap = with_interval(intervals["AP"]) if intervals else _spread(figures[0])
        gain = with_interval(intervals["over_control"], "+") if intervals else _spread(gains)
        more = [with_interval(intervals[key], "+") for key in others]
        spent = f"{mean(seconds):.0f}" if None not in seconds else "-"
        rows.append([method, ap, *map(_spread, figures[1:]), gain, *more, spent])
    return rows


def with_interval(figure: dict[str, float | None], sign: str = "") -> str:
    """A figure times 100, with its 95 % interval over test images."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    return f"{100 * value:{sign}.2f} ({100 * low:{sign}.2f} to {100 * high:{sign}.2f})"


def _spread(values: Sequence[float | None]) -> str:
    """A mean times 100, with the extremes if they differ; a dash if there is no figure."""
    if any(value is None for value in values):
        return "-"
    known = [100 * value for value in values if value is not None]
    middle, lowest, highest = (f"{value:.2f}" for value in (mean(known), min(known), max(known)))
    return middle if lowest == highest else f"{middle} ({lowest} to {highest})"
