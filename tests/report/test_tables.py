"""Tables of one run and of several seeds."""

from typing import Any

from rich.console import Console

from rl_det.report.tables import markdown_table, print_table


def results(ppo: float, **missing: None) -> dict[str, Any]:
    def figures(ap: float) -> dict[str, Any]:
        return {"AP": ap, "AP50": 0.8, "AP75": 0.6, "F1": 0.7, "calibration_error": 0.01} | missing

    methods = {"warm_start": figures(0.5), "continued_supervised": figures(0.52), "ppo": figures(ppo)}
    seconds = {"warm_start": 0.1, "continued_supervised": 60.0, "ppo": 300.4}
    return {"data": "digit_scenes", "detector": "tiny", "seed": 0, "methods": methods, "seconds": seconds}


def printed(found: dict[str, Any]) -> str:
    console = Console(width=100, record=True, quiet=False)
    with console.capture() as capture:
        print_table(found, console)
    return capture.get()


def test_a_run_is_printed_times_100_with_the_gain_over_the_control() -> None:
    text = printed(results(0.5312))
    row = next(line for line in text.splitlines() if " ppo " in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "ppo", "53.12", "80.00", "60.00", "70.00", "1.00", "1.12", "300",
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


def test_without_the_control_the_first_method_is_compared_with() -> None:
    run = results(0.53)
    del run["methods"]["continued_supervised"]
    rows = markdown_table([run]).splitlines()
    assert "| 0.00 |" in rows[-2]
    assert "| 3.00 |" in rows[-1]
