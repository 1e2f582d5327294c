"""The command `rl-det`: finetune, supervised, compare, check, report, detect, onnx. Every setting of the library is a flag."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro

from rl_det.cli.comparing import CompareFlags, run_compare
from rl_det.cli.detecting import DetectFlags, OnnxFlags, run_detect, run_onnx
from rl_det.cli.looking import CheckFlags, ReportFlags, run_check, run_report
from rl_det.cli.parsing import parse
from rl_det.cli.training import FinetuneFlags, PolicyFlags, RunFlags, SupervisedFlags, run_finetune, run_supervised
from rl_det.parallel import check_alone
from rl_det.program import one_line, program

__all__ = [
    "COMMANDS",
    "CompareFlags",
    "PolicyFlags",
    "RunFlags",
    "SupervisedFlags",
    "main",
    "parse",
    "run_compare",
    "run_supervised",
]

COMMANDS: dict[str, tuple[type, Callable[..., None]]] = {
    "finetune": (FinetuneFlags, run_finetune),
    "supervised": (SupervisedFlags, run_supervised),
    "compare": (CompareFlags, run_compare),
    "check": (CheckFlags, run_check),
    "report": (ReportFlags, run_report),
    "detect": (DetectFlags, run_detect),
    "onnx": (OnnxFlags, run_onnx),
}
"""The commands. A new command is one pair here."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command's entry point."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in COMMANDS:
        flags_type, run = COMMANDS[given[0]]
        resumes = "resume" in {f.name for f in dataclasses.fields(flags_type)}
        with program(again="--resume" if resumes else "", arguments=given):
            if not issubclass(flags_type, RunFlags):
                check_alone(f"rl-det {given[0]}")
            run(parse(flags_type, given[1:], prog=f"rl-det {given[0]}"))
        return
    commands = {name: _command(flags, run) for name, (flags, run) in COMMANDS.items()}
    with program(again="", arguments=given), one_line("rl-det"):
        tyro.extras.subcommand_cli_from_dict(commands, prog="rl-det", description=__doc__, args=given)


def _command(flags_type: type, run: Callable[..., None]) -> Callable[..., None]:
    """A function with one parameter whose fields are the command's flags, without a prefix."""

    def command(flags: object) -> None:
        run(flags)

    command.__annotations__ = {"flags": Annotated[flags_type, tyro.conf.arg(name="")], "return": None}
    command.__doc__ = flags_type.__doc__
    return command
