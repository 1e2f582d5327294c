"""Run a program in a process of its own, ended if it hangs: threads that a fork does not copy are waited for without end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def run(program: str, folder: Path, *arguments: str) -> None:
    """In a session of its own, which ends with all its processes."""
    script = folder / "program.py"
    script.write_text(program)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, str(script), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            told, failed = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("it hangs")
    assert process.returncode == 0, failed
    assert told.split()[-1] == "done"
