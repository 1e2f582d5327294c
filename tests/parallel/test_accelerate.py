"""`accelerate launch` starts the same processes as `torchrun`."""

import subprocess
import sys

import pytest
from parallel.launching import environment


def test_processes_of_accelerate_find_each_other() -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    ended = subprocess.run(
        [*command, "--module", "parallel.who"], capture_output=True, text=True, check=False, env=environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert "ranks [0, 1]" in ended.stdout
