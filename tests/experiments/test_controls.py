"""The controls beside each other, in small: each has a row, and the best rate is that of validation."""

from pathlib import Path

import pytest
from small_runs import results, run_script

CONTROL = "continued_supervised"
RATES = [CONTROL, f"{CONTROL}_half_rate", f"{CONTROL}_twice_the_rate"]

pytestmark = pytest.mark.usefixtures("few_scenes")


def test_every_control_has_a_row_and_the_best_rate_goes_by_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--budget", "smoke", "--device", "cpu", "--out", tmp_path / "run", "--limits.fit-evaluations", "0")
    run_script("controls.py", *flags, monkeypatch=monkeypatch)
    told = results(tmp_path / "run")
    rows = [*RATES, f"{CONTROL}_averaged", f"{CONTROL}_longer", "surrogate", "ppo"]
    assert [name for name in told["methods"] if "voted" not in name] == ["warm_start", *rows]
    assert told["endings"][f"{CONTROL}_longer"]["update"] == 14, "1.75 times the control's eight steps"
    best = max(RATES, key=told["validation_AP"].__getitem__)
    assert capsys.readouterr().out.splitlines()[-1] == f"the rate that is best on validation: {best}"
