"""Rows of several runs side by side: means, and intervals over seeds, folds and test images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rl_det.ap.matching import Matches, match
from rl_det.errors import UserError
from rl_det.finetuning.plan import FITTED, VOTED
from rl_det.finetuning.results import check_files, load_results, read_detections, read_truths
from rl_det.progress import bar
from rl_det.report.bootstrap import interval, redrawn_ap
from rl_det.report.comparison import endings_of, means
from rl_det.report.tables import check_same_rows, figures_of
from rl_det.storage.run import TRUTHS

NUM_DRAWS = 400


def compared_rows(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    matches: Mapping[str, Sequence[Sequence[Matches]]],
    controls: Mapping[str, str],
    *,
    num_draws: int = NUM_DRAWS,
) -> dict[str, dict[str, Any]]:
    """Each row's figures in all its runs, their means, and its AP and differences from the controls with intervals.

    `runs` are the contents of `results.json`, `matches` those of each seed and fold, and `controls` the rows of the
    differences by their names in the result (`rl_det.report.comparison.DIFFERENCES`); one that is no row is left out.
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

    Raises ValueError, which names the folder, if one holds no finished run, or one of other rows, data or test images.
    """
    results = [load_results(folder) for folder in folders]
    for one in results:
        check_files(one)
    runs = [one.to_json() for one in results]
    check_same_rows(runs)
    truths = [read_truths(folder) for folder in folders]
    for folder, own in zip(folders, truths, strict=True):
        if not all(np.array_equal(part, vars(truths[0])[name]) for name, part in vars(own).items()):
            raise UserError(f"{folder}: the runs must have the same test images; those of {folders[0]} are others")
    num_classes = len(results[0].rows[results[0].control].class_ap)

    def matches_of(row: str, folder: Path) -> list[Matches]:
        return [match(read_detections(folder, row), truths[0], num_classes=num_classes)]

    matches = {row: [matches_of(row, folder) for folder in folders] for row in results[0].rows}
    control = results[0].control
    controls = {"over_control": control, "over_voted_control": control + VOTED, "over_fitted_control": control + FITTED}
    return {
        "data": runs[0]["data"],
        "detector": runs[0]["detector"],
        "seeds": [run["seed"] for run in runs],
        "images": {"test": len(truths[0])},
        "methods": compared_rows(dict.fromkeys(results[0].rows, runs), matches, controls, num_draws=num_draws),
    }


def have_truths(folders: Sequence[Path]) -> bool:
    """Whether all the runs have kept their true boxes, which intervals over several seeds need; older ones have not."""
    return all((folder / TRUTHS).exists() for folder in folders)
