"""Check what a user's files say: raise one clear error, or repair boxes and count them in one warning."""

import reprlib
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from rl_det.errors import UserError

Corners = tuple[float, float, float, float]

HAIR = 0.01
"""The precision of boxes in files, in pixels: boxes may leave the image by less, and thinner boxes count as empty."""


class DataError(UserError):
    """A fault in a user's file: `DataError(path, entry, message)` reads "path: entry: message".

    The parts stay plain `args`, so the error can be sent back from a DataLoader's worker.
    """

    def __str__(self) -> str:
        return ": ".join(str(part) for part in self.args)


@dataclass(kw_only=True)
class Repairs:
    """A count of the boxes of one file that were repaired."""

    num_clipped: int = 0
    num_dropped: int = 0

    def clip(self, box: Corners, width: int, height: int) -> Corners | None:
        """The part of a box inside its image, or None if nothing is inside; counts a box that leaves the image."""
        left, top, right, bottom = box
        inside = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        if min(inside[2] - inside[0], inside[3] - inside[1]) < HAIR:
            self.num_dropped += 1
            return None
        if max(abs(new - old) for new, old in zip(inside, box, strict=True)) > HAIR:
            self.num_clipped += 1
        return inside

    def warn(self, path: Path) -> None:
        """Give one warning for the whole file; none if nothing was repaired."""
        if self.num_clipped or self.num_dropped:
            warnings.warn(
                f"{path}: boxes that leave their image: {self.num_clipped} clipped, "
                f"{self.num_dropped} dropped because nothing of them was inside",
                stacklevel=3,
            )


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number; true and false are not."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def brief(value: Any) -> str:
    """A value as an error message shows it, cut to a readable length."""
    return reprlib.repr(value)
