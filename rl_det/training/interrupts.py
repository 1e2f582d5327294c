"""Turn SIGINT and SIGTERM into one exception, raised at a moment when nothing is half done."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised by a signal that ends the program; `exit_code` is the shell's, 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Pending:
    """The pending signal, if there is one."""

    number: int | None = None

    def raise_if_any(self) -> None:
        """Raise `Interrupted` if a signal is pending."""
        if self.number is not None:
            raise Interrupted(self.number)


def _act(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A context in which SIGINT and SIGTERM raise `Interrupted` at once. Outside the main thread it changes nothing."""
    with _handled(_act):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
    """A context in which a first signal is kept in the returned `Pending`, and a second one raises `Interrupted` at once.

    It works only in the main thread, as Python's signals do. In other threads it changes nothing.
    """
    pending = Pending()

    def note(number: int, frame: FrameType | None) -> None:
        if pending.number is not None:
            _act(number, frame)
        pending.number = number

    with _handled(note):
        yield pending


@contextlib.contextmanager
def _handled(handler: "signal._HANDLER") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
