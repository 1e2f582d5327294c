"""The table and the picture of a comparison: means over seeds and folds, and the columns of differences."""

from pathlib import Path
from typing import Any

import pytest

from rl_det.report.comparison import ending_lines, endings_of, markdown, markdown_without_intervals, means
from rl_det.report.comparison_picture import draw_comparison

ENDED = [
    "* ppo: not fitted: too few (1 of 2 runs: seed 0)",
    "* ppo: is its own start: no later weights were better on validation (2 of 2 runs)",
    "* ppo: ended early: collapse (AP fell) (1 of 2 runs: seed 3)",
    "* ppo: 1 update was skipped; first: loss is NaN in update 3, images 4 (1 of 2 runs: seed 3)",
    "* ppo: out of bounds: kl_old above 1 in 2 of 9 updates, at most 3 (1 of 2 runs: seed 3)",
]


def figures(ap50: float, f1: float | None = 0.7) -> dict[str, float | None]:
    return {"AP50": ap50, "AP75": 0.6, "F1": f1, "F1_by_class": 0.71, "calibration_error": 0.01}


def compared(*differences: str, **more: Any) -> dict[str, Any]:
    runs = [figures(0.8), figures(0.9, None)]
    interval = {"value": 0.011, "low": -0.002, "high": 0.03}
    method = {
        "figures": runs, "means": means(runs), "seconds": [10.0, 20.0], "AP": {**interval, "value": 0.5},
        "endings": ["budget", "collapse"], "details": ["not fitted: too few", "AP fell"],
        "out_of_bounds": ["", "kl_old above 1 in 2 of 9 updates, at most 3"],
        "skipped": [0, 1], "first_skipped": ["", "loss is NaN in update 3, images 4"], "best_update": [0, 0],
    }  # fmt: skip
    return {
        "data": "cells", "detector": "tiny", "seeds": [0, 3], "images": {"test": 40},
        "methods": {"ppo": {**method, **dict.fromkeys(differences, interval)}}, **more,
    }  # fmt: skip


def test_a_mean_is_of_the_runs_in_which_the_figure_exists() -> None:
    found = means([figures(0.8, None), figures(0.9, 0.5), figures(0.7, 0.6)])
    assert found["F1"] == pytest.approx(0.55)
    assert found["AP50"] == pytest.approx(0.8)
    assert means([figures(0.8, None)])["F1"] is None


def test_a_comparison_without_folds_is_the_table_and_what_befell_its_runs() -> None:
    assert markdown(compared("over_control")).splitlines() == [
        "| method | AP | AP50 | AP75 | F1 | F1 by class | D-ECE | AP over control | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ppo | 50.00 (-0.20 to 3.00) | 85.00 | 60.00 | 70.00 | 71.00 | 1.00 | +1.10 (-0.20 to +3.00) | 15 |",
        "",
        *ENDED,
    ]


def test_runs_without_the_control_name_the_row_they_are_compared_with() -> None:
    header, *_ = markdown(compared("over_control", control="ppo")).splitlines()
    assert header.endswith("| D-ECE | AP over ppo | seconds |")


def test_the_difference_from_the_control_with_hand_set_votes_is_a_column_if_it_is_there() -> None:
    header, _, row, *_ = markdown(compared("over_control", "over_voted_control")).splitlines()
    assert header.endswith("| AP over control | AP over voted control | seconds |")
    assert row.endswith("| +1.10 (-0.20 to +3.00) | +1.10 (-0.20 to +3.00) | 15 |")


def test_folds_are_told_below_the_table_and_in_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda _, title, **__: titles.append(title))
    for more in ({}, {"folds": 5}):
        draw_comparison(compared("over_control", **more), tmp_path / "picture.png")
    assert titles == ["cells, tiny, 2 seeds, 40 test images", "cells, tiny, 2 seeds, 5 folds, 40 test images"]
    assert markdown(compared("over_control", folds=5)).splitlines()[3:] == [
        "",
        "Means over 5 folds and seeds 0, 3. Each of the 40 images is tested once with each seed, by a detector that was not "
        "trained on it.",
        "",
        *ENDED,
    ]


def test_with_folds_a_line_names_the_seed_and_the_fold() -> None:
    told = compared("over_control", folds=2, seeds=[0], runs=[{"seed": 0, "fold": 1}, {"seed": 0, "fold": 2}])
    assert "* ppo: ended early: collapse (AP fell) (1 of 2 runs: seed 0, fold 2)" in markdown(told).splitlines()


def test_a_run_of_an_older_version_tells_of_its_ending_what_it_has_written() -> None:
    older, newer = (
        {"reason": "budget", "detail": ""},
        {"reason": "budget", "detail": "", "skipped": 2, "first_skipped": "NaN"},
    )
    found = endings_of([{"endings": {"ppo": ending}} for ending in (older, newer)], "ppo")
    assert ending_lines({"seeds": [0, 1], "methods": {"ppo": found}}) == [
        "ppo: 2 updates were skipped; first: NaN (1 of 2 runs: seed 1)"
    ]


def test_joined_runs_without_intervals_have_the_same_lines() -> None:
    def run(seed: int, **ending: Any) -> dict[str, Any]:
        named = {"data": "cells", "detector": "tiny", "seed": seed, "control": "ppo", "seconds": {"ppo": 1.0}}
        endings = {"ppo": {"reason": "budget", "detail": "", **ending}}
        return {**named, "methods": {"ppo": {"AP": 0.5, **figures(0.8)}}, "endings": endings}

    *_, empty, line = markdown_without_intervals([run(0, best_update=0), run(1, best_update=4)]).splitlines()
    assert (empty, line) == (
        "",
        "* ppo: is its own start: no later weights were better on validation (1 of 2 runs: seed 0)",
    )
    assert "*" not in markdown_without_intervals([run(0), run(1)])


def test_a_figure_that_exists_in_no_run_is_a_dash() -> None:
    told = compared("over_control")
    told["methods"]["ppo"]["means"]["F1"] = None
    assert "| 60.00 | - | 71.00 | 1.00 |" in markdown(told)
