"""What the processes of a comparison tell: each line once with the run's name, and all of it in each run's log."""

from dataclasses import replace
from pathlib import Path

import pytest
from comparing import CONTROL, compared
from small_runs import SMALL

from rl_det.finetuning.job import Cell

pytestmark = pytest.mark.usefixtures("few_scenes")
TOLD = "post-processing is not fitted: a fit needs 16 validation images; there are 8"


def test_what_several_runs_tell_is_passed_on_once_and_each_log_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, budget = tmp_path / "out", replace(SMALL, fit_evaluations=22)
    compared(out, strategies=(CONTROL,), seeds=(0, 1), budget=budget, workers=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "not fitted" in line]
    assert lines == [f"{CONTROL}-seed0: {TOLD}"]
    for seed in (0, 1):
        assert TOLD in (out / Cell(CONTROL, seed).folder / "job.log").read_text().splitlines()
