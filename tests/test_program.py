"""What a program prints of an error: one line for a user's mistake, and the traceback of any other."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import EXPERIMENTS, run_script

from rl_det import cli
from rl_det.errors import PathError, UserError
from rl_det.losses.ap import ap_loss
from rl_det.program import DEBUG, program


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG, "")
    monkeypatch.setattr("sys.argv", ["a program"])


def of_torch() -> None:
    torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))


def of_numpy() -> None:
    np.zeros(3).reshape(2, 2)


def of_our_own_check() -> None:
    ap_loss(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool))


def of_a_conversion() -> None:
    int("three")


def of_a_wrong_path() -> None:
    Path("no such folder of ours/file").read_bytes()


@pytest.mark.parametrize("mistake", [of_torch, of_numpy, of_our_own_check, of_a_conversion, of_a_wrong_path])
def test_an_error_of_the_code_keeps_its_traceback(
    mistake: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((ValueError, OSError)) as raised, program():
        mistake()
    assert mistake.__name__ in [entry.name for entry in raised.traceback]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        UserError("rate must be positive; got -1"),
        PathError("here: could not be written"),
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "/somewhere"),
        OSError(errno.EROFS, "Read-only file system"),
    ],
)
def test_an_error_of_the_user_or_the_machine_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending, program():
        raise error
    assert ending.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_error_is_one_line_whatever_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), program():
        raise UserError("a\u202eb\n\x1b[2J\0\ud800: must be a file")
    assert capsys.readouterr().err == "error: a\\u202eb\\n\\x1b[2J\\x00\\ud800: must be a file\n"


def test_what_standard_output_cannot_encode_is_an_escape_in_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    with program():
        print("\u732b \ud800", flush=True)
    assert written.getvalue() == b"\\u732b \\ud800" + os.linesep.encode()
    with pytest.raises(UnicodeEncodeError):
        print("\u732b", flush=True)


@pytest.mark.parametrize("asked", ["variable", "flag"])
def test_where_it_is_asked_for_a_users_mistake_keeps_its_traceback(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if asked == "variable":
        monkeypatch.setenv(DEBUG, "1")
    flags = ["--traceback"] if asked == "flag" else []
    with pytest.raises(UserError, match="nowhere: the folder: there is none of this name"):
        cli.main(["check", "nowhere", *flags])
    monkeypatch.setattr("sys.argv", ["a script", *flags])
    with pytest.raises(UserError, match="a mistake"), program():
        raise UserError("a mistake")


def test_a_wrong_flag_is_one_line_also_then(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["check", "--nonsense", "--traceback"])
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_the_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "--traceback" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted(file.name for file in EXPERIMENTS.glob("*.py")))
def test_every_script_has_the_flag(
    script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        run_script(script, "--help", monkeypatch=monkeypatch)
    assert "--traceback" in capsys.readouterr().out
