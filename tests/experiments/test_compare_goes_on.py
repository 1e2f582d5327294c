"""A comparison that was killed or damaged goes on and ends the same."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparing import CONTROL, compared
from small_runs import results, started

from rl_det.errors import UserError
from rl_det.finetuning.job import Cell

pytestmark = pytest.mark.usefixtures("few_scenes", "jobs_in_this_process")


ALONE = """
import pathlib, sys

from comparing import CONTROL, compared, few_scenes

few_scenes()
compared(pathlib.Path(sys.argv[1]), strategies=(CONTROL,))
"""


def test_damaged_results_are_told_and_made_anew_from_the_checkpoints(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(out, tmp_path / "own"))
    damage = {"warm_start": "results.json", CONTROL: f"test_detections/{CONTROL}.npz"}
    compared(own, strategies=tuple(damage))
    before = {name: results(own / Cell(name, 0).folder)["methods"] for name in damage}
    for name, file in damage.items():
        kept = own / Cell(name, 0).folder / file
        content = kept.read_bytes()
        kept.write_bytes(content[: len(content) // 2] + b"0" + content[len(content) // 2 + 1 :])
    names = started(monkeypatch)
    capsys.readouterr()
    compared(own, strategies=tuple(damage))
    told = [line for line in capsys.readouterr().err.splitlines() if "made anew" in line]
    assert sorted(names) == sorted(Cell(name, 0).folder for name in damage)
    assert [line.split(": ")[0] for line in told] == [str(own / Cell(n, 0).folder / file) for n, file in damage.items()]
    assert {name: results(own / Cell(name, 0).folder)["methods"] for name in damage} == before


def test_a_damaged_job_of_a_former_comparison_is_named(out: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(out, tmp_path / "own"))
    file = own / Cell(CONTROL, 0).folder / "job.json"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"^{file}: must be the job of a comparison; got "):
        compared(own)


def test_a_comparison_that_is_killed_goes_on(out: Path, tmp_path: Path) -> None:
    own = tmp_path / "killed"
    alone = subprocess.Popen([sys.executable, "-c", ALONE, str(own)], stderr=subprocess.DEVNULL)
    while not list((own / Cell(CONTROL, 0).folder).glob("checkpoints/*")):
        assert alone.poll() is None
        time.sleep(0.01)
    alone.send_signal(signal.SIGKILL)
    alone.wait()
    assert not (own / "comparison.json").exists()
    compared(own, strategies=(CONTROL,))
    killed, whole = (results(folder / Cell(CONTROL, 0).folder)["methods"] for folder in (own, out))
    assert killed == whole
