"""SIGINT and SIGTERM -> one exception, raised at a moment at which nothing is half done."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has asked the program to end; `exit_code` is the shell's convention, 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Pending:
    """The signal that waits, if one has come."""

    number: int | None = None

    def raise_if_any(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)


def _act(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise `Interrupted` at once. Outside of the main thread nothing changes."""
    with _handled(_act):
        yield


@contextlib.contextmanager
def deferred() -> Iterator[Pending]:
    """Within, a first signal only waits in what comes back; a second one acts at once. Main thread only, as Python has it."""
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
