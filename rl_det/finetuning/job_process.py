"""Start a comparison's job in a process and read what it says. This imports no torch: Ray's workers run it, and only wait."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

TOLD = "rl_det tells: "
"""What stands in front of a told line on a job's standard output, where the comparison reads it."""


def with_threads(environment: Mapping[str, str], threads: str) -> dict[str, str]:
    """The environment of a job's process. Its results depend on the number of threads, to the last digit."""
    return {**environment, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}


def start(command: list[str], log: Path, threads: str) -> subprocess.Popen[str]:
    """Start a job's process, whose standard error is added to the log, and whose standard output is to be read."""
    with log.open("ab") as opened:
        return subprocess.Popen(
            command,
            env=with_threads({**os.environ, "PYTHONIOENCODING": "utf-8:backslashreplace"}, threads),
            text=True,
            encoding="utf-8",
            stdout=subprocess.PIPE,
            stderr=opened,
        )


def lines_told(process: subprocess.Popen[str]) -> Iterator[str]:
    """The lines that a job's process tells (`rl_det.progress.tell`), each as it comes, until the process ends."""
    for line in process.stdout or ():
        if line.startswith(TOLD):
            yield line.removeprefix(TOLD).rstrip("\n")


def said_since(log: Path, place: int) -> str:
    """What the log holds from this byte on."""
    return log.read_bytes()[place:].decode(errors="replace")


def size_of(log: Path) -> int:
    """The bytes of the log; 0 if there is none."""
    return log.stat().st_size if log.exists() else 0


class KilledError(RuntimeError):
    """A job's process was killed by a signal."""


def run_command(command: list[str], log: Path, threads: str) -> tuple[int, list[str], str]:
    """Run a job's process; return its exit code, the lines that it told, and what it said on standard error.

    Raises KilledError if a signal has ended it.
    """
    begin = size_of(log)
    with start(command, log, threads) as process:
        told = list(lines_told(process))
    if process.returncode < 0:
        raise KilledError(f"ended by signal {-process.returncode}")
    return process.returncode, told, said_since(log, begin)
