"""What the tests of the command ask it: a small run, and the line of a mistake."""

from pathlib import Path
from typing import Any

import pytest

from rl_det import cli

TINY = [
    "--budget",
    "smoke",
    "--limits.num-updates",
    "2",
    "--limits.images-per-update",
    "4",
    "--limits.num-draws",
    "5",
    "--limits.evaluated-candidates",
    "80",
    "--limits.validated-candidates",
    "64",
    "--device",
    "cpu",
]


def finetune(data: Path, out: Path) -> list[str]:
    return ["finetune", "--data", str(data), "--out", str(out), "--policy", "rescore", *TINY]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line that the command ends with; but for the data's layout nothing is printed, so no image was decoded."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending:
        cli.main([str(argument) for argument in arguments])
    assert ending.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    (line,) = [line for line in printed.err.splitlines() if ": COCO, " not in line]
    assert line.startswith("error: ")
    return line
