"""One run at a time makes a file that several runs need; the others wait, and find it."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rl_det import parallel
from rl_det.storage.cache import cache_folder


@contextmanager
def one_at_a_time(file: Path, tell: Callable[[str], Any], wait: str) -> Iterator[None]:
    """A context that one run has at a time, for this file, among all that share the cache folder.

    `tell` is told `wait` once if the file is not there yet. Of processes that train together, the main one waits for them all.
    A run that is killed leaves the lock open. Where no lock can be had, as in a folder that cannot be written, the context is
    entered at once.
    """
    lock = FileLock(cache_folder() / "locks" / f"{file.name}.lock", fallback_to_soft=False)
    parallel.of_main(lambda: _take(lock, tell, "" if file.exists() else wait))
    try:
        yield
    finally:
        lock.release()


def _take(lock: FileLock, tell: Callable[[str], Any], wait: str) -> None:
    with contextlib.suppress(OSError, NotImplementedError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if wait:
                tell(wait)
            lock.acquire()
