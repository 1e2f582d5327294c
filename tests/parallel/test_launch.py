"""A run in several processes: the same table and files as in one, a clear end if a process is killed, and its going on."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from parallel.launching import command, environment, launch
from parallel.small_run import run
from small_runs import files, results

from rl_det.errors import UserError
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.request import Request

WITHIN = 60.0
"""Seconds in which the launch must end after one of its processes was killed."""
RUN = "--module", "parallel.small_run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run in one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run(folder)
    return folder


def test_two_processes_write_what_one_writes_and_print_it_once(alone: Path, tmp_path: Path) -> None:
    printed = launch(2, *RUN, tmp_path / "run")
    assert printed.count("2 processes") == 1
    assert printed.count("the tuned detectors") == 1
    assert files(tmp_path / "run") - _logs(tmp_path / "run") == files(alone) - _logs(alone)
    one, two = results(alone), results(tmp_path / "run")
    assert one["methods"].keys() == two["methods"].keys()
    for name in one["methods"]:
        assert two["methods"][name] == pytest.approx(one["methods"][name], abs=1e-3), name


def test_a_launch_may_tune_twice(alone: Path, tmp_path: Path) -> None:
    printed = launch(2, *RUN, tmp_path / "first", tmp_path / "second")
    assert printed.count("2 processes") == 2
    first, second = results(tmp_path / "first"), results(tmp_path / "second")
    assert first["methods"] == second["methods"]
    assert second["methods"]["ppo"] == pytest.approx(results(alone)["methods"]["ppo"], abs=1e-3)


def _logs(folder: Path) -> set[str]:
    return {name for name in files(folder) if "tensorboard" in name}


def test_a_killed_process_ends_the_launch_soon_and_clearly_and_the_run_goes_on(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started = subprocess.Popen(
        command(2, *RUN, folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    while not any(folder.glob("checkpoints/ppo*.pt")):
        assert started.poll() is None
        time.sleep(0.05)
    os.kill(_second_process(started.pid), signal.SIGKILL)
    killed = time.monotonic()
    printed, _ = started.communicate(timeout=WITHIN)
    assert time.monotonic() - killed < WITHIN
    assert started.returncode != 0
    assert re.search(r"Root Cause.*\n.*\n.*time.*\n.*host.*\n.*rank +: 1 .*\n.*exitcode +: -9", printed), printed
    assert "Traceback" not in printed.split("torch/distributed")[0]
    launch(2, *RUN, folder, "--resume")
    one, two = results(alone), results(folder)
    assert two["methods"]["ppo"] == pytest.approx(one["methods"]["ppo"], abs=1e-3)


def _second_process(launcher: int) -> int:
    """The process of rank 1."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank 1 among {children}")


def test_mistakes_are_one_line_and_nothing_is_written(alone: Path) -> None:
    ended = subprocess.run(command(2, *RUN, alone), capture_output=True, text=True, env=environment())
    assert ended.returncode != 0
    assert f"\nerror: {alone}: holds a run already" in "\n" + ended.stderr
    assert "Traceback" not in ended.stderr.split("torch/distributed")[0]


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
