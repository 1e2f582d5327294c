"""What surrounds the work of every program: one line for a user's mistake, and for a signal the command that goes on."""

import contextlib
import io
import itertools
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rl_det.training.interrupts import Interrupted, interruptible
from rl_det.training.progress import tell

COMMAND = Path(__file__).with_name("cli.py")


class UsageError(ValueError):
    """Flags that cannot be read."""


@contextlib.contextmanager
def program(*, again: Literal["--resume", "--overwrite", ""] = "--resume") -> Iterator[None]:
    """A context that ends the program in one line: a user's mistake with exit code 2, a signal with the command to resume.

    `again` is the flag that this command needs: --overwrite if it can only begin again, "" if it needs none. All other
    errors keep their traceback, and with RL_DET_DEBUG=1 a user's mistake does too. Warnings are one line.
    """
    try:
        with interruptible(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}")
            yield
    except Interrupted as interrupted:
        command = shlex.join(_again(again))
        kept = "what is done is kept, and this goes on" if again == "--resume" else "this runs it again"
        print(f"\nstopped; {kept}: {command}", file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except (ValueError, OSError) as error:
        if os.environ.get("RL_DET_DEBUG") and not isinstance(error, UsageError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


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
