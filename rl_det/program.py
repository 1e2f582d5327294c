"""What surrounds the work of every program: one line for a user's mistake, and for a signal the command that goes on."""

import contextlib
import errno
import io
import itertools
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rl_det import parallel
from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.settings import check_settings
from rl_det.training.interrupts import Interrupted, interruptible

COMMAND = Path(__file__).with_name("cli") / "__main__.py"


DEBUG = "RL_DET_DEBUG"
"""The environment variable that keeps the traceback of a user's mistake, for this program and its processes."""
FAULTS_OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What a file system answers that refuses the user, or is full."""
MAIN_FIRST = 5.0
"""Seconds that the main process has to tell a mistake before others do. Mostly all have found it; at the main one's end, the
launcher ends the others."""


class UsageError(UserError):
    """Flags that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ProgramFlags:
    """The flag that every command has."""

    traceback: bool = False
    """Show where in the code a mistake was found; the environment variable RL_DET_DEBUG=1 does so too."""

    def __post_init__(self) -> None:
        check_settings(self)


@contextlib.contextmanager
def program(
    *, again: Literal["--resume", "--overwrite", ""] = "--resume", arguments: Sequence[str] | None = None
) -> Iterator[None]:
    """A context that ends the program in one line: a user's mistake with exit code 2, a signal with the command to resume.

    A user's mistake is a `UserError`, or an OSError of a file system that refuses the user or is full. All other errors
    keep their traceback, ValueErrors too, as they are mistakes of the code; with --traceback among the arguments
    (`ProgramFlags`), or RL_DET_DEBUG=1, a user's mistake keeps it too. `again` is the flag that this command needs to go
    on: --overwrite if it can only begin again, "" if it needs none. Warnings are one line.
    """
    if "--traceback" in (sys.argv if arguments is None else arguments):
        os.environ[DEBUG] = "1"
    try:
        with interruptible(), warnings.catch_warnings(), _written_by_main(), _all_written():
            warnings.showwarning = lambda message, *_, **__: tell(f"warning: {' '.join(str(message).split())}")
            parallel.join()
            yield
    except Interrupted as interrupted:
        command = shlex.join(_again(again)) if parallel.launched() == 1 else f"the same launch {again}"
        kept = "what is done is kept, and this goes on" if again == "--resume" else "this runs it again"
        print(f"\nstopped; {kept}: {command}", file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except (UserError, OSError) as error:
        is_users = isinstance(error, UserError) or error.errno in FAULTS_OF_THE_MACHINE
        if not is_users or (os.environ.get(DEBUG) and not isinstance(error, UsageError)):
            raise
        who = ""
        if not parallel.is_main():
            time.sleep(MAIN_FIRST)
            who = f"process {parallel.rank()}: "
        print(f"{who}error: {error}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def _written_by_main() -> Iterator[None]:
    """A context in which one of the processes that were launched together prints on standard output."""
    with contextlib.ExitStack() as silent:
        if not parallel.is_main():
            silent.enter_context(contextlib.redirect_stdout(silent.enter_context(open(os.devnull, "w"))))
        yield


@contextlib.contextmanager
def _all_written() -> Iterator[None]:
    """A context in which what standard output's encoding has not, as halves of characters, is written as escapes."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):  # a notebook's takes all
        yield
        return
    errors = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors=errors)


def _again(flag: str) -> list[str]:
    """This program's command line, with the flag and without one that the flag contradicts."""
    known = ("--resume", "--no-resume", "--overwrite", "--no-overwrite")
    kept = [argument for argument in sys.argv[1:] if not flag or argument not in known]
    program = [sys.executable, sys.argv[0]] if sys.argv[0].endswith(".py") else [sys.argv[0]]
    if Path(sys.argv[0]).resolve() == COMMAND.resolve():
        program = [sys.executable, "-m", "rl_det.cli"]
    return [*program, *kept, *([flag] if flag else [])]


@contextlib.contextmanager
def one_line(prog: str | None) -> Iterator[None]:
    """What tyro has to say of wrong flags, in several lines and a frame, becomes a `UsageError` of one."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except SystemExit as ending:
        if not ending.code:
            raise
        inside = [line.strip("│| ") for line in printed.getvalue().splitlines() if not re.match(r"[╭╰+]|[-─ ]+$", line)]
        lines = itertools.takewhile(lambda line: not re.match("[-─]{10}|For full helptext", line), inside)
        line = " ".join(" ".join(lines).split()).removesuffix(".")
        line = re.sub(r"Error parsing (?:\S*flags\.?)?(\S*): ", lambda found: found[1] and f"{found[1]}: ", line)
        raise UsageError(f"{line}; see {prog or Path(sys.argv[0]).name} --help") from None
