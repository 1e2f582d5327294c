"""What a person at a terminal sees of long work: bars that go on moving, and single lines between them."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

REFRESHED_EVERY = 1.0
"""Seconds between two looks at the clock: a bar moves too while its work is compiled or waits."""


def tell(text: str) -> None:
    """One line on the standard error stream, above a bar if there is one."""
    tqdm.write(text, file=sys.stderr)


class Bar:
    """A progress bar with the time left, which a thread of its own keeps up to date."""

    def __init__(self, name: str, total: int | None = None, initial: int = 0) -> None:
        self.bar = tqdm(total=total, initial=initial, desc=name, dynamic_ncols=True, file=sys.stderr)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)
        self._thread.start()

    def advance(self, count: int = 1) -> None:
        """So many further."""
        self.bar.update(count)

    def reach(self, place: int) -> None:
        """At this place."""
        self.bar.update(place - self.bar.n)

    def note(self, text: str) -> None:
        """Stand this behind the bar."""
        self.bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._ended.set()
        self._thread.join()
        self.bar.close()

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESHED_EVERY):
            self.bar.refresh()


@contextmanager
def bar(name: str, total: int | None = None) -> Iterator[Bar]:
    """A bar while the work lasts."""
    shown = Bar(name, total)
    try:
        yield shown
    finally:
        shown.close()
