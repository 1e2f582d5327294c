"""Check what a user's files say: collect faults, which end a run, and repairs and warnings, which are told.

A reader adds what it finds to `Findings` and goes on, so that all faults of a data set can be listed at once.
"""

import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.text import printable

Corners = tuple[float, float, float, float]
Repair = Literal["clipped", "outside", "empty"]
REPAIRS: dict[Repair, str] = {
    "clipped": "clipped",
    "outside": "dropped with nothing inside",
    "empty": "dropped without a size",
}
"""What is done with a box that leaves its image, that lies beside it, and that has no width or no height."""

HAIR = 0.01
"""The precision of boxes in files, in pixels: boxes may leave the image by less, and thinner boxes count as empty."""
LONGEST_BRIEF = 200
"""The most letters of a value in an error message."""
KEPT_FAULTS = 100_000
"""More faults are counted only."""
LARGEST_AREA = 3e38
"""Areas are kept in single precision."""


class DataError(UserError):
    """A fault in a user's file: `DataError(path, entry, message)` reads "path: entry: message", in one line.

    The parts stay plain `args`, so the error can be sent back from a DataLoader's worker.
    """

    def __str__(self) -> str:
        return ": ".join(printable(str(part)) for part in self.args)


@dataclass(kw_only=True)
class Findings:
    """What is wrong with a data set's files.

    `strict` makes a fault of each repair.
    """

    strict: bool = False
    faults: list[DataError] = field(default_factory=list)
    repairs: dict[Path, dict[Repair, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    num_more: int = 0
    """The number of faults that are not kept, beyond the first `KEPT_FAULTS`."""

    def fault(self, path: Path, entry: str, message: str) -> None:
        """Add a fault."""
        self.add(DataError(path, entry, message))

    def add(self, fault: DataError) -> None:
        """Add a fault that a part of the reader has raised."""
        if len(self.faults) < KEPT_FAULTS:
            self.faults.append(fault)
        else:
            self.num_more += 1

    def repair(self, path: Path, kind: Repair, entries: Sequence[str]) -> None:
        """Add repairs of one kind; `entries` names each box."""
        if self.strict:
            for entry in entries:
                self.fault(path, entry, f"a box that would be {REPAIRS[kind]}")
        elif entries:
            own = self.repairs.setdefault(path, dict.fromkeys(get_args(Repair), 0))
            own[kind] += len(entries)

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.warnings.append(printable(text))

    def told(self) -> list[str]:
        """The warnings, and the repairs in one line a file."""
        lines = [
            f"{path}: boxes that had to be repaired: "
            + ", ".join(f"{count} {REPAIRS[kind]}" for kind, count in counts.items() if count)
            for path, counts in self.repairs.items()
        ]
        return [*map(printable, lines), *self.warnings]

    def settle(self) -> None:
        """Tell each warning; then raise the first fault, with the number of the others."""
        for line in self.told():
            tell(f"warning: {line}")
        if self.faults:
            path, entry, message = self.faults[0].args
            others = len(self.faults) - 1 + self.num_more
            more = f" (and {others} more faults; `rl-det check` lists all)" if others else ""
            raise DataError(path, entry, message + more)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number; true and false are not."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def brief(value: Any) -> str:
    """A value as an error message shows it, cut to a readable length, however deep its lists are."""
    shown = reprlib.Repr()
    shown.maxlevel = 2
    text = shown.repr(value)
    return text if len(text) <= LONGEST_BRIEF else f"{text[:LONGEST_BRIEF]}..."


def is_background(name: str) -> bool:
    """Whether a class is the background by its name: torchvision's "__background__", labelme's "_background_"."""
    return name.strip("_").lower() == "background"
