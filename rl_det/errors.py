"""Errors that are the user's to mend; a program tells them in one line, and all others with their traceback."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rl_det.text import printable

MOST_NAMED = 6
"""The most images that a message names."""


class UserError(ValueError):
    """A setting, a flag, data or a file of the user's that the library refuses; the message is one sentence in one line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class PathError(UserError, OSError):
    """A file or folder that cannot be read or written: a `UserError` that is an OSError too."""


class NotFiniteError(UserError, ArithmeticError):
    """A loss, a gradient, a reward or a detector's output that is NaN or infinite; `images` names the images it came from."""

    def __init__(self, what: str, images: Sequence[str] = ()) -> None:
        self.what, self.images = what, tuple(images)
        more = f" and {len(images) - MOST_NAMED} more" if len(images) > MOST_NAMED else ""
        super().__init__(f"{what}, images {', '.join(images[:MOST_NAMED])}{more}" if images else what)


@contextlib.contextmanager
def naming(images: Callable[[], Sequence[str]]) -> Iterator[None]:
    """A context whose NotFiniteError names these images, unless it names some already."""
    try:
        yield
    except NotFiniteError as error:
        if error.images:
            raise
        raise NotFiniteError(error.what, images()) from error
