"""Results of one run or of several seeds -> a table, to print or to put into Markdown; AP figures times 100."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

CONTROL = "continued_supervised"
FIGURES = ("AP", "AP50", "AP75", "F1", "calibration_error")
HEADERS = ("AP", "AP50", "AP75", "F1", "D-ECE", "AP over control")


def print_table(results: dict[str, Any], console: Console | None = None) -> None:
    """One run's methods, with the difference of their AP to the control's, or where there is none to the first's."""
    table = Table(title=f"{results['data']}, {results['detector']}, seed {results['seed']}: test split, x 100")
    header, *rows = _rows([results])
    for name in header:
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        table.add_row(*row)
    (console or Console(width=max(100, Console().width))).print(table)


def markdown_table(runs: Sequence[dict[str, Any]]) -> str:
    """The same methods over several seeds: the mean and, in brackets, the lowest and the highest."""
    header, *rows = _rows(runs)
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def _rows(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = [["method", *HEADERS, "seconds"]]
    control = CONTROL if CONTROL in runs[0]["methods"] else next(iter(runs[0]["methods"]))
    for method in runs[0]["methods"]:
        figures = [[run["methods"][method][name] for run in runs] for name in FIGURES]
        gains = [run["methods"][method]["AP"] - run["methods"][control]["AP"] for run in runs]
        seconds = [run["seconds"].get(method) for run in runs]
        rows.append(
            [method, *map(_spread, figures), _spread(gains), f"{mean(seconds):.0f}" if None not in seconds else "-"]
        )
    return rows


def _spread(values: Sequence[float | None]) -> str:
    """A mean times 100 and, where they differ, the extremes; a dash where there is no figure."""
    if any(value is None for value in values):
        return "-"
    known = [100 * value for value in values if value is not None]
    middle, lowest, highest = (f"{value:.2f}" for value in (mean(known), min(known), max(known)))
    return middle if lowest == highest else f"{middle} ({lowest} to {highest})"
