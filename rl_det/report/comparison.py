"""The table of a comparison of strategies in Markdown, with intervals."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rl_det.report.tables import DIFFERENCES, HEADERS, TABLE_FIGURES, markdown_table, table_of, with_interval
from rl_det.text import isolated, printable

ENDING = ("endings", "details", "out_of_bounds", "skipped", "first_skipped", "best_update")
"""What a comparison keeps of how each run of a row ended, as lists."""


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

    With folds, a line below says how many. Further lines say what misleads in the figures of some runs (`ending_lines`).
    """
    parts = [table_of(comparison_rows(compared))]
    if "folds" in compared:
        parts.append(folds_text(compared))
    return "\n\n".join([*parts, *_listed(ending_lines(compared))])


def markdown_without_intervals(runs: Sequence[dict[str, Any]]) -> str:
    """The table of runs that differ in their seeds (`rl_det.report.tables.markdown_table`), with the same lines below."""
    rows = {row: endings_of(runs, row) for row in runs[0]["methods"]}
    told = ending_lines({"seeds": [run["seed"] for run in runs], "methods": rows})
    return "\n\n".join([markdown_table(runs), *_listed(told)])


def _listed(lines: Sequence[str]) -> list[str]:
    """The lines as one list in Markdown; nothing for none."""
    return ["\n".join(f"* {printable(line)}" for line in lines)] if lines else []


def comparison_rows(compared: dict[str, Any]) -> list[list[str]]:
    """The header and the rows of the same table, as texts."""
    methods = compared["methods"]
    differences = [key for key in DIFFERENCES if all(key in method for method in methods.values())]
    headers = DIFFERENCES | {"over_control": f"AP over {compared.get('control', 'control')}"}
    rows = [["method", *HEADERS, *(headers[key] for key in differences), "seconds"]]
    for name, method in methods.items():
        figures = [
            "-" if (value := method["means"][figure]) is None else f"{100 * value:.2f}" for figure in TABLE_FIGURES[1:]
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


def endings_of(runs: Sequence[Mapping[str, Any]], row: str) -> dict[str, list[Any]]:
    """How a row ended in each of the runs, which are contents of `results.json`; older ones have not written all of it."""
    endings = [run["endings"][row] for run in runs]
    return {
        "endings": [ending["reason"] for ending in endings],
        "details": [ending["detail"] for ending in endings],
        "out_of_bounds": [ending.get("out_of_bounds", "") for ending in endings],
        "skipped": [ending.get("skipped", 0) for ending in endings],
        "first_skipped": [ending.get("first_skipped", "") for ending in endings],
        "best_update": [ending.get("best_update") for ending in endings],
    }


def ending_lines(compared: Mapping[str, Any]) -> list[str]:
    """The lines of all rows on early ends, fits, skipped updates, metrics out of bounds, and starts that were never beaten."""
    runs = [f"seed {run['seed']}, fold {run['fold']}" for run in compared.get("runs", [])]
    runs = runs or [f"seed {seed}" for seed in compared["seeds"]]
    return [line for name, method in compared["methods"].items() for line in _endings(isolated(name), method, runs)]


def _endings(name: str, method: Mapping[str, list[Any]], runs: Sequence[str]) -> list[str]:
    """A line for each of these, with how many of the row's runs it befell, and which if not all."""
    befell: dict[str, list[str]] = {}
    for place, run in enumerate(runs):
        for line in _ending({key: method[key][place] for key in ENDING}):
            befell.setdefault(line, []).append(run)
    return [f"{name}: {line} ({_of_runs(own, len(runs))})" for line, own in befell.items()]


def _ending(ending: Mapping[str, Any]) -> list[str]:
    """The lines on how a row ended in one run."""
    reason, detail = ending["endings"], ending["details"]
    told = []
    if reason != "budget":
        told.append(f"ended early: {reason}{f' ({detail})' if detail else ''}")
    elif detail.startswith("not "):
        told.append(detail)
    if skipped := ending["skipped"]:
        updates = "1 update was" if skipped == 1 else f"{skipped} updates were"
        told.append(f"{updates} skipped; first: {ending['first_skipped']}")
    if metrics := ending["out_of_bounds"]:
        told.append(f"out of bounds: {metrics}")
    if ending["best_update"] == 0:
        told.append("is its own start: no later weights were better on validation")
    return told


def _of_runs(befallen: Sequence[str], num_runs: int) -> str:
    named = f": {'; '.join(befallen)}" if len(befallen) < num_runs else ""
    return f"{len(befallen)} of {num_runs} runs{named}"
