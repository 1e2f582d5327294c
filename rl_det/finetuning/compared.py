"""Rows of several runs side by side: means, and intervals over seeds, folds and test images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rl_det.ap.matching import Matches, match
from rl_det.errors import UserError
from rl_det.finetuning.plan import FITTED
from rl_det.finetuning.results import Results, check_files, load_results, read_detections, read_truths
from rl_det.progress import bar
from rl_det.report.bootstrap import interval, redrawn_ap
from rl_det.report.comparison import endings_of, means
from rl_det.report.tables import check_same_rows, figures_of
from rl_det.storage.checkpoint import difference
from rl_det.storage.run import TRUTHS, read_config
from rl_det.strategies.hand_set import VOTED

NUM_DRAWS = 400


def controls_from(control: str) -> dict[str, str]:
    """The rows of the columns of differences: the control, and the same with hand-set votes and with fitted post-processing."""
    return {"over_control": control, "over_voted_control": control + VOTED, "over_fitted_control": control + FITTED}


def compared_rows(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    matches: Mapping[str, Sequence[Sequence[Matches]]],
    controls: Mapping[str, str],
    *,
    num_draws: int = NUM_DRAWS,
) -> dict[str, dict[str, Any]]:
    """Each row's figures in all its runs, their means, and its AP and differences from the controls with intervals.

    `runs` are the contents of `results.json`, `matches` those of each seed and fold, and `controls` the rows of the
    differences by their names in the result (`rl_det.report.tables.DIFFERENCES`); one that is no row is left out.
    """
    with bar("intervals", num_draws + 1) as shown:
        redrawn = redrawn_ap(matches, num_draws=num_draws, rng=np.random.default_rng(0), on_draw=shown.advance)
    rows = {}
    for row, own in runs.items():
        figures = [figures_of(run, row) for run in own]
        rows[row] = {
            "seconds": [run["seconds"][row] for run in own],
            "figures": figures,
            "means": means(figures),
            **endings_of(own, row),
            "AP": asdict(interval(redrawn[row])),
            **{
                key: asdict(interval(redrawn[row] - redrawn[control]))
                for key, control in controls.items()
                if control in redrawn
            },
        }
    return rows


def compared_seeds(folders: Sequence[Path], *, num_draws: int = NUM_DRAWS) -> dict[str, Any]:
    """Runs of several seeds on the same data, as `rl_det.report.comparison.markdown` and `draw_comparison` take them.

    Raises ValueError, which names the folder, if one holds no finished run, or one of other test images or that may not be
    joined (`check_joined`).
    """
    results = [load_results(folder) for folder in folders]
    for one in results:
        check_files(one)
    check_joined(results)
    runs = [one.to_json() for one in results]
    truths = [read_truths(folder) for folder in folders]
    for folder, own in zip(folders, truths, strict=True):
        if not all(np.array_equal(part, vars(truths[0])[name]) for name, part in vars(own).items()):
            raise UserError(f"{folder}: the runs must have the same test images; those of {folders[0]} are others")
    num_classes = len(results[0].rows[results[0].control].class_ap)

    def matches_of(row: str, folder: Path) -> list[Matches]:
        return [match(read_detections(folder, row), truths[0], num_classes=num_classes)]

    matches = {row: [matches_of(row, folder) for folder in folders] for row in results[0].rows}
    control = results[0].control
    controls = controls_from(control)
    of_first: dict[str, Any] = {}
    if control == next(iter(results[0].rows)):  # runs without the control: they are compared with their first row
        controls, of_first = {"over_control": control}, {"control": control}
    return {
        **of_first,
        "data": runs[0]["data"],
        "detector": runs[0]["detector"],
        "seeds": [run["seed"] for run in runs],
        "images": {"test": len(truths[0])},
        "methods": compared_rows(dict.fromkeys(results[0].rows, runs), matches, controls, num_draws=num_draws),
    }


def check_joined(results: Sequence[Results]) -> None:
    """Raise ValueError unless the runs have the same rows, data and settings, and each has a seed of its own."""
    check_same_rows([one.to_json() for one in results])
    by_seed: dict[int, Path] = {}
    for one in results:
        seed = one.facts["seed"]
        if seed in by_seed:
            raise UserError(
                f"{one.folder}: each run must have a seed of its own; got {seed}, which {by_seed[seed]} has too; "
                "leave out one of the two"
            )
        by_seed[seed] = one.folder
    first, *others = results
    for one in others:
        _check_same_settings(first.folder, one.folder)


def _check_same_settings(first: Path, other: Path) -> None:
    """Raise ValueError, which names the difference, if two runs differ in more than their seeds, or are of two versions."""
    then, now = (
        {"rl_det": config.get("rl_det"), **config["run"], "seed": None} for config in map(read_config, (first, other))
    )
    if found := difference(then, now):
        name, before, after = _innermost(*found)
        raise UserError(
            f"{other}: the runs must differ in nothing but their seeds; {name} is {after}, and {before} in {first}; "
            "report them apart"
        )


def _innermost(name: str, one: Any, other: Any) -> tuple[str, Any, Any]:
    """A difference between two settings, by the name of the innermost one, with dots."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = (dict(zip(map(str, range(len(one))), values, strict=True)) for values in (one, other))
    if isinstance(one, dict) and isinstance(other, dict) and (found := difference(one, other)):
        inner, *values = found
        return _innermost(f"{name}.{inner}", *values)
    return name, one, other


def without_truths(results: Sequence[Results]) -> str:
    """Which run lacks its true boxes, which intervals over several seeds need, and why; an empty string if none does."""
    for one in results:
        file = one.folder / TRUTHS
        if not file.exists():
            is_lost = TRUTHS in one.checksums
            older = f"{one.folder}: a run of an older version has not kept the true boxes ({TRUTHS})"
            return f"{file}: is missing, though the run has written it" if is_lost else older
    return ""
