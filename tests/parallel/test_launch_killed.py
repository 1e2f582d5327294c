"""A launch one of whose processes is killed ends soon and clearly, and its run goes on."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from parallel.launching import command, environment, launch
from parallel.small_run import RUN, run
from small_runs import results

pytestmark = pytest.mark.usefixtures("without_pages")

WITHOUT_PAGES = *RUN, "--without-pages"
WITHIN = 60.0
"""Seconds in which the launch must end after one of its processes was killed."""


def test_a_killed_process_ends_the_launch_soon_and_clearly_and_the_run_goes_on(tmp_path: Path) -> None:
    alone, folder = tmp_path / "alone", tmp_path / "run"
    run(alone)
    started = subprocess.Popen(
        command(2, *WITHOUT_PAGES, folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
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
    launch(2, *WITHOUT_PAGES, folder, "--resume")
    one, two = results(alone), results(folder)
    assert two["methods"]["ppo"] == pytest.approx(one["methods"]["ppo"], abs=1e-3)


def _second_process(launcher: int) -> int:
    """The process of rank 1."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank 1 among {children}")
