"""A mistake ends a launch with one line, whichever process finds it, and nothing is written."""

import subprocess
from pathlib import Path

import pytest
from parallel.launching import command, environment
from parallel.small_run import RUN
from small_runs import files

from rl_det.errors import UserError
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.request import Request
from rl_det.storage.run import Run


def test_mistakes_are_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Run(folder, {}):
        before = files(folder)
    ended = subprocess.run(command(2, *RUN, folder), capture_output=True, text=True, env=environment())
    assert ended.returncode != 0
    assert f"\nerror: {folder}: holds a run already" in "\n" + ended.stderr
    assert "Traceback" not in ended.stderr.split("torch/distributed")[0]
    assert files(folder) == before


@pytest.mark.parametrize(
    ("ranks", "line"),
    [((0, 1), "error: found by (0, 1)"), ((1,), "process 1: error: found by (1,)")],
    ids=["by_all", "by_another"],
)
def test_a_mistake_is_told_once_whoever_is_first_to_find_it(ranks: tuple[int, ...], line: str) -> None:
    ended = subprocess.run(
        command(2, "--module", "parallel.mistaken", *ranks), capture_output=True, text=True, env=environment()
    )
    assert ended.returncode != 0
    assert [told for told in ended.stderr.splitlines() if "error: found by" in told] == [line]


def test_a_comparison_starts_its_processes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="is the work of one process; start it alone, without torchrun or accelerate"):
        compare(Request(), out=tmp_path / "compared")
    assert not (tmp_path / "compared").exists()
