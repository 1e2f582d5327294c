"""One run at a time makes a file that several runs need, and the others wait; one at a time works in a folder."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rl_det import parallel
from rl_det.errors import UserError
from rl_det.storage.cache import cache_folder, fingerprint


@contextmanager
def one_at_a_time(file: Path, tell: Callable[[str], Any], wait: str) -> Iterator[None]:
    """A context that one run has at a time, for this file, among all that share the cache folder.

    `tell` is told `wait` once if the file is not there yet. Of processes that train together, the main one waits for them all.
    A run that is killed leaves the lock open. Where no lock can be had, as in a folder that cannot be written, the context is
    entered at once.
    """
    lock = _lock(file.name)
    parallel.of_main(lambda: _take(lock, tell, "" if file.exists() else wait))
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone_in(folder: Path, what: str) -> Iterator[None]:
    """A context that one program has at a time, for this folder, among all that share the cache folder.

    UserError at once, which says `what` works there, if another has it. A program that is killed leaves the lock open; where no
    lock can be had, the context is entered.
    """
    lock = _lock(fingerprint({"folder": str(folder.resolve())}))
    with contextlib.suppress(OSError, NotImplementedError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(
                f"{folder}: one {what} at a time must work in a folder; another works there now; wait for its end, or take "
                "another folder (--out)"
            ) from error
    try:
        yield
    finally:
        lock.release()


def _lock(name: str) -> FileLock:
    return FileLock(cache_folder() / "locks" / f"{name}.lock", fallback_to_soft=False)


def _take(lock: FileLock, tell: Callable[[str], Any], wait: str) -> None:
    with contextlib.suppress(OSError, NotImplementedError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if wait:
                tell(wait)
            lock.acquire()
