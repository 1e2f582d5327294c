"""Progress of long work: bars on a terminal, a line a minute in a file; and single lines, which stand above a bar."""

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from rl_det.parallel import is_main
from rl_det.text import printable

REFRESHED_EVERY = 1.0
"""Seconds between two refreshes; a bar moves also while its work compiles or waits."""
LINE_EVERY = 60.0
"""Seconds between two lines where no bar can be drawn, as in a file; work that takes less is silent there."""
LINE = "{desc}: {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left{postfix}"
"""Such a line, in tqdm's words: the name, what is done of how much, minutes:seconds, and the note."""
SHORT_WORK = 2.0
"""Seconds that work may take before its bar appears, where most users never need one: a bar's `delay`."""


_hearers: list[Callable[[str], Any]] = []


def tell(text: str) -> None:
    """Print one line on the standard error stream, above a bar if there is one; of several processes, the main one does."""
    if is_main():
        line = printable(text)
        _write(line)
        for hear in _hearers:
            hear(line)


@contextmanager
def heard_by(hear: Callable[[str], Any]) -> Iterator[None]:
    """A context in which `hear` is given each line that is told, too; not those in place of a bar."""
    _hearers.append(hear)
    try:
        yield
    finally:
        _hearers.remove(hear)


def _write(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def draws_bars() -> bool:
    """Whether a carriage return overwrites a line of the standard error stream: on a terminal, and in a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")


class Bar:
    """A progress bar with the remaining time, which its own thread refreshes; in a file, a line a minute in its place.

    The lines have the same name, counts, times and note as the bar, and a last one stands at the end of work that took
    longer than a minute. The environment variable TQDM_DISABLE=1 turns off both.
    """

    def __init__(self, name: str, total: int | None = None, initial: int = 0, delay: float = 0.0) -> None:
        self._in_lines = not draws_bars()
        drawn: dict[str, Any] = {"dynamic_ncols": True, "file": sys.stderr, "delay": delay}
        if not is_main():
            drawn["disable"] = True
        self.bar = tqdm(
            total=total,
            initial=initial,
            desc=name,
            **({"bar_format": LINE, "file": _Nowhere()} if self._in_lines else drawn),
        )
        self._every = LINE_EVERY if self._in_lines else REFRESHED_EVERY
        self._quiet = max(delay, self._every)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._thread.start()

    def advance(self, count: int = 1) -> None:
        """Advance the bar by `count`."""
        self.bar.update(count)

    def reach(self, place: int) -> None:
        """Move the bar to this place."""
        self.bar.update(place - self.bar.n)

    def note(self, text: str) -> None:
        """Write this text after the bar."""
        self.bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Stop the bar; its last state stays visible."""
        self._ended.set()
        self._thread.join()
        if self._in_lines and self.bar.format_dict["elapsed"] >= LINE_EVERY:
            self._show()
        self.bar.close()

    def _refresh(self) -> None:
        quiet = self._quiet
        while not self._ended.wait(quiet):
            self._show()
            quiet = self._every

    def _show(self) -> None:
        """Draw the bar anew, or print a line in its place."""
        if not self._in_lines:
            self.bar.refresh()
        elif not self.bar.disable and is_main():
            _write(str(self.bar))


class _Nowhere(io.TextIOBase):
    """A stream that keeps nothing: tqdm draws its bar there, and so measures its rate."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def bar(name: str, total: int | None = None, *, delay: float = 0.0) -> Iterator[Bar]:
    """A context with a bar, which is closed at the end; it appears only if the work takes longer than `delay` seconds."""
    shown = Bar(name, total, delay=delay)
    try:
        yield shown
    finally:
        shown.close()
