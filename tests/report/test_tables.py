"""Tables of one run and of several seeds."""

from typing import Any

import pytest

from rl_det.report.tables import endings_text, markdown_table, table_text
from rl_det.training.loop import Ending


def results(ppo: float, **missing: None) -> dict[str, Any]:
    def figures(ap: float) -> dict[str, Any]:
        return {"AP": ap, "AP50": 0.8, "AP75": 0.6, "F1": 0.8, "calibration_error": 0.01} | missing

    methods = {"warm_start": figures(0.5), "continued_supervised": figures(0.52), "ppo": figures(ppo)}
    seconds = {"warm_start": 0.1, "continued_supervised": 60.0, "ppo": 300.4}
    control = "continued_supervised"
    return {
        "data": "digit_scenes", "detector": "tiny", "seed": 0, "control": control, "methods": methods,
        "seconds": seconds, "F1_at_validations_threshold": dict.fromkeys(methods, 0.7),
        "F1_at_class_thresholds": dict.fromkeys(methods, 0.72),
    }  # fmt: skip


def test_a_run_is_printed_times_100_with_the_gain_over_the_control() -> None:
    text = table_text([results(0.5312)])
    row = next(line for line in text.splitlines() if " ppo " in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "ppo", "53.12", "80.00", "60.00", "70.00", "72.00", "1.00", "1.12", "300",
    ]  # fmt: skip
    assert "continued_supervised" in text


def test_seeds_are_joined_into_a_mean_and_its_extremes() -> None:
    rows = markdown_table([results(0.53), results(0.54), results(0.56)]).splitlines()
    assert rows[0].startswith("| method | AP |")
    assert rows[-1].startswith("| ppo | 54.33 (53.00 to 56.00) |")
    assert "2.33 (1.00 to 4.00)" in rows[-1]
    assert "| 80.00 |" in rows[-1], "where the seeds agree there is no spread to show"


def test_a_figure_that_is_missing_is_a_dash() -> None:
    assert "| - |" in markdown_table([results(0.53, AP75=None)])


def test_f1_at_a_threshold_per_class_is_a_dash_for_an_older_run() -> None:
    run = results(0.53)
    del run["F1_at_class_thresholds"]
    assert "| 70.00 | - | 1.00 |" in markdown_table([run])
    nan = results(0.53)
    nan["F1_at_class_thresholds"] = dict.fromkeys(nan["methods"], float("nan"))
    assert markdown_table([nan]) == markdown_table([run])


def test_the_control_is_the_method_that_the_run_names() -> None:
    rows = markdown_table([results(0.53) | {"control": "warm_start"}]).splitlines()
    assert "| 2.00 |" in rows[-2]
    assert "| 3.00 |" in rows[-1]


def test_a_runs_intervals_stand_beside_its_ap_and_its_gain_and_seeds_have_none() -> None:
    def interval(value: float | None) -> dict[str, float | None]:
        return {"value": value, "low": None if value is None else value - 0.01, "high": 0.6}

    run = results(0.53)
    run["intervals"] = {
        name: {"AP": interval(figures["AP"]), "over_control": interval(figures["AP"] - 0.52)}
        for name, figures in run["methods"].items()
    }
    run["intervals"]["warm_start"]["over_control"] = interval(None)
    assert "fitted" not in markdown_table([run])
    rows = markdown_table([run]).splitlines()
    assert "| 53.00 (52.00 to 60.00) |" in rows[-1]
    assert "| +1.00 (+0.00 to +60.00) |" in rows[-1]
    assert "| - |" in rows[2]
    assert "| 53.00 |" in markdown_table([run, run]).splitlines()[-1]
    for own in run["intervals"].values():
        own["over_fitted_control"] = interval(-0.005)
    header, *_, last = markdown_table([run]).splitlines()
    assert header.endswith("| AP over control | AP over fitted control | seconds |")
    assert "| +1.00 (+0.00 to +60.00) | -0.50 (-1.50 to +60.00) |" in last
    assert "fitted" not in markdown_table([run, run])


def test_seconds_that_are_not_known_are_a_dash() -> None:
    run = results(0.53)
    del run["seconds"]["ppo"]
    assert markdown_table([run, results(0.53)]).splitlines()[-1].endswith("| - |")


def test_only_rows_that_did_not_end_as_planned_or_came_to_nothing_are_told_of() -> None:
    endings = {
        "labels": Ending(reason="budget", update=40, best=0.5),
        "ppo": Ending(reason="collapse", update=12, best=0.5, detail="AP fell from 0.5 to 0.4"),
        "surrogate": Ending(reason="patience", update=20, best=0.5, best_update=10),
        "reinforce": Ending(reason="budget", update=20, best=0.5, best_update=0),
        "select": Ending(
            reason="budget", update=20, best=0.5, out_of_bounds="kl_old above 1 in 7 of 20 updates, at most 3"
        ),
    }
    assert endings_text(endings).splitlines() == [
        "ppo ended after 12 updates: collapse (AP fell from 0.5 to 0.4)",
        "surrogate ended after 20 updates: patience",
        "reinforce is its own start: no later weights were better on validation",
        "select was out of bounds: kl_old above 1 in 7 of 20 updates, at most 3",
    ]


@pytest.mark.parametrize("sign", ["\u202e", "\u2066", "\n", "\t", "\0", "\ud800"])
def test_what_would_turn_or_break_a_line_is_an_escape(sign: str) -> None:
    name, told = f"ppo{sign}", results(0.53)
    told["data"] = f"scenes [red]{sign} :cat:"
    for key in ("methods", "seconds", "F1_at_validations_threshold", "F1_at_class_thresholds"):
        told[key] = {name if row == "ppo" else row: value for row, value in told[key].items()}
    ending = Ending(reason="collapse", update=20, best=0.5, best_update=10, detail=f"AP{sign}")
    escape = sign.encode("unicode_escape", "backslashreplace").decode()
    for text, lines in (
        (table_text([told]), len(table_text([results(0.53)]).splitlines())),
        (markdown_table([told]), 5),
        (endings_text({name: ending}), 1),
    ):
        assert len(text.splitlines()) == lines
        assert {letter for letter in text if not letter.isprintable()} == {"\n"} & {*text}
        assert f"ppo{escape}" in text
    assert f"scenes [red]{escape} :cat:, tiny" in table_text([told])
