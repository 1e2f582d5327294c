"""Progress on a terminal: bars for long work, and single lines above them."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from rl_det.parallel import is_main

REFRESHED_EVERY = 1.0
"""Seconds between two refreshes; a bar moves also while its work compiles or waits."""
SHORT_WORK = 2.0
"""Seconds that work may take before its bar appears, where most users never need one: a bar's `delay`."""


def tell(text: str) -> None:
    """Print one line on the standard error stream, above a bar if there is one; of several processes, the main one does."""
    if is_main():
        tqdm.write(text, file=sys.stderr)


class Bar:
    """A progress bar with the remaining time, which its own thread refreshes."""

    def __init__(self, name: str, total: int | None = None, initial: int = 0, delay: float = 0.0) -> None:
        hidden = {} if is_main() else {"disable": True}
        self.bar = tqdm(
            total=total, initial=initial, desc=name, dynamic_ncols=True, file=sys.stderr, delay=delay, **hidden
        )
        self._quiet = max(delay, REFRESHED_EVERY)
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
        self.bar.close()

    def _refresh(self) -> None:
        quiet = self._quiet
        while not self._ended.wait(quiet):
            self.bar.refresh()
            quiet = REFRESHED_EVERY


@contextmanager
def bar(name: str, total: int | None = None, *, delay: float = 0.0) -> Iterator[Bar]:
    """A context with a bar, which is closed at the end; it appears only if the work takes longer than `delay` seconds."""
    shown = Bar(name, total, delay=delay)
    try:
        yield shown
    finally:
        shown.close()
