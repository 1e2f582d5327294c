"""A command's flags from its arguments, with the defaults that follow from its budget and its data."""

import argparse
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from rl_det.cli.training import RunFlags
from rl_det.finetuning.budget import BUDGETS, DIGIT_RECIPE, PHOTO_RECIPE
from rl_det.program import one_line

Flags = TypeVar("Flags")


def parse(flags_type: type[Flags], arguments: Sequence[str] | None = None, prog: str | None = None) -> Flags:
    """The flags of a command; `--budget` and `--data` set the defaults of the budget's and the recipe's numbers.

    Raises `UsageError`, in one line, for wrong flags.
    """
    defaults = _defaults(flags_type, arguments)
    given: dict[str, Any] = {} if defaults is None else {"default": defaults}
    with one_line(prog):
        flags: Flags = tyro.cli(flags_type, args=arguments, prog=prog, **given)
    return flags


def _defaults(flags_type: type[Flags], arguments: Sequence[str] | None) -> Flags | None:
    """The flags that follow from `--budget` and `--data`; None where none do."""
    if not issubclass(flags_type, RunFlags):
        return None
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--budget", choices=tuple(BUDGETS), default="full")
    early.add_argument("--data")
    try:
        known, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError:  # which tyro says better
        return None
    recipe = DIGIT_RECIPE if known.data is None else PHOTO_RECIPE
    return flags_type(budget=known.budget, limits=BUDGETS[known.budget], recipe=recipe)
