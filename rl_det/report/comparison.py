"""The table of a comparison of strategies in Markdown, with intervals."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rl_det.report.tables import DIFFERENCES, FIGURES, HEADERS, with_interval


def means(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each figure over seeds and folds; of those where it exists, None where it never does.

    The AP of a size does not exist in a fold without a true box of that size.
    """
    found: dict[str, float | None] = {}
    for name in figures[0]:
        known = [value for run in figures if (value := run[name]) is not None]
        found[name] = mean(known) if known else None
    return found


def markdown(compared: dict[str, Any]) -> str:
    """The table in Markdown: means over seeds and folds, times 100; in brackets 95 % intervals over seeds and test images.

    With folds, a line below says how many. Where a fit was not kept or not made, or a training ended early, a line says why.
    """
    header, *rows = comparison_rows(compared)
    rule = ["---", *["---:"] * (len(header) - 1)]
    parts = ["\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])]
    if "folds" in compared:
        parts.append(folds_text(compared))
    if told := ending_lines(compared):
        parts.append("\n".join(f"* {line}" for line in told))
    return "\n\n".join(parts)


def comparison_rows(compared: dict[str, Any]) -> list[list[str]]:
    """The header and the rows of the same table, as texts."""
    methods = compared["methods"]
    differences = [key for key in DIFFERENCES if all(key in method for method in methods.values())]
    rows = [["method", *HEADERS, *(DIFFERENCES[key] for key in differences), "seconds"]]
    for name, method in methods.items():
        figures = [
            "-" if (value := method["means"][figure]) is None else f"{100 * value:.2f}" for figure in FIGURES[1:]
        ]
        over = [with_interval(method[key], "+") for key in differences]
        rows.append([name, with_interval(method["AP"]), *figures, *over, f"{mean(method['seconds']):.0f}"])
    return rows


def folds_text(compared: dict[str, Any]) -> str:
    """How many folds there are, and what they mean."""
    return (
        f"Means over {compared['folds']} folds and seeds {', '.join(map(str, compared['seeds']))}. Each of the "
        f"{compared['images']['test']} images is tested once with each seed, by a detector that was not trained on it."
    )


def ending_lines(compared: dict[str, Any]) -> list[str]:
    """The lines on early ends, on fits and on metrics out of bounds, of all rows."""
    return [line for name, method in compared["methods"].items() for line in _endings(name, method)]


def _endings(name: str, method: Mapping[str, Any]) -> list[str]:
    """A line for each early end, failed fit and metric out of bounds, with how many of the row's runs it befell."""
    told = [
        detail if reason == "budget" else f"ended early: {reason}{f' ({detail})' if detail else ''}"
        for reason, detail in zip(method["endings"], method["details"], strict=True)
        if reason != "budget" or detail.startswith("not ")
    ]
    told += [f"out of bounds: {metrics}" for metrics in method.get("out_of_bounds", []) if metrics]
    return [f"{name}: {line} ({told.count(line)} of {len(method['endings'])} runs)" for line in dict.fromkeys(told)]
