"""What is paid beside what is measured, in small: it runs, and its table is what the detections are worth."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import results, run_script

SCRIPT = "paid_and_measured.py"
ROWS = ["warm_start", "continued_supervised", "warm_start_voted", "continued_supervised_voted", "pool_ap", "pool_f1"]

pytestmark = pytest.mark.usefixtures("few_scenes")


def test_the_table_has_a_row_for_each_reward_and_the_control_and_a_column_for_each_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--budget", "smoke", "--device", "cpu", "--out", tmp_path, "--rewards", "pool_ap", "pool_f1")
    run_script(SCRIPT, *flags, "--num-updates", "3", monkeypatch=monkeypatch)
    told = results(tmp_path / "seed0")
    assert json.loads((tmp_path / "seed0" / "config.json").read_text())["run"]["budget"]["num_updates"] == 3
    assert list(told["methods"]) == ROWS
    capsys.readouterr()
    run_script(SCRIPT, *flags, "--table", "--draws", "5", monkeypatch=monkeypatch)
    head, _, *lines = capsys.readouterr().out.splitlines()
    rows = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}
    assert [cell.strip() for cell in head.split("|")[2:-1]] == ["mAP", "AP50", "F1", "1 - LRP", "cost", "count error"]
    assert list(rows) == ROWS
    values = {name: [float(cell.split(";")[0]) for cell in cells] for name, cells in rows.items()}
    for name in ROWS:
        for place, figure in enumerate(("AP", "AP50")):
            assert values[name][place] == pytest.approx(100 * told["methods"][name][figure], abs=0.006)
        f1 = told["F1_at_validations_threshold"][name]
        assert values[name][2] == pytest.approx(100 * f1, abs=0.006)
        assert all(value < 0 for value in values[name][4:]), "a cost and an error are below nothing"
    control = values["continued_supervised"]
    for name in ("pool_ap", "pool_f1"):
        differences = [float(cell.split("; ")[1].split(" ")[0]) for cell in rows[name]]
        np.testing.assert_allclose(differences, np.subtract(values[name], control), atol=0.016)
    assert all(";" not in cell for cell in rows["continued_supervised"])
