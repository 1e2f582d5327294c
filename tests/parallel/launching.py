"""Start processes as a user does: `torchrun --nproc-per-node N`."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

Found = dict[str, dict[str, Tensor]]
"""What a module of tests has found, by the names of its detectors and of their parts."""

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


def command(number: int, *arguments: object) -> list[str]:
    """`torchrun` with so many processes on this machine."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number),
        *map(str, arguments),
    ]  # fmt: skip


def environment(**more: str) -> dict[str, str]:
    """One thread each, and this checkout before anything installed."""
    here = os.pathsep.join([str(TESTS), str(ROOT), str(ROOT / "envs"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", **more}


def launch(number: int, *arguments: object, **more: str) -> str:
    """What a launch prints, which must end well."""
    ended = subprocess.run(command(number, *arguments), capture_output=True, text=True, env=environment(**more))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def found_by_two(module: str, folder: Path) -> list[Found]:
    """What each of two processes has found: `module FILE` writes it to FILE.RANK."""
    launch(2, "--module", module, folder / "found")
    return [torch.load(folder / f"found.{rank}", weights_only=True) for rank in (0, 1)]
