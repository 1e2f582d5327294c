"""Hashes of files that earlier processes have read, kept in the cache folder: a file not written since is not read again.

As in git's index, a file is the same if its path, size, number on the disk, and times of modification and of change are.
Whoever writes to a file changes at least the last. A file that was written within two seconds of its reading is not
kept: it may be written again in the same tick of a coarse clock.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar

from rl_det.storage.cache import cache_folder, fingerprint

Value = TypeVar("Value")
SETTLED_NS = 2_000_000_000
"""A file whose times are younger than this when it is read is not kept."""
COLUMNS = (
    "path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER, inode INTEGER, digest TEXT, seal TEXT"
)


class Stamp(NamedTuple):
    """What tells whether a file is still the one that was read."""

    path: str
    """Absolute, as JSON writes it, which all names can be."""
    size: int
    modified: int
    changed: int
    inode: int


def stamp_of(file: Path) -> Stamp:
    """The file's stamp; OSError if there is no such file."""
    told = file.stat()
    return Stamp(json.dumps(os.path.abspath(file)), told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino)


def recalled(stamps: Sequence[Stamp]) -> dict[Stamp, str]:
    """The hashes that are kept of files with these stamps; none if the file that keeps them cannot be read."""
    wanted = set(stamps)

    def found(kept: sqlite3.Connection) -> dict[Stamp, str]:
        paths = json.dumps([stamp.path for stamp in stamps])
        rows = kept.execute("SELECT * FROM digests WHERE path IN (SELECT value FROM json_each(?))", (paths,))
        read = ((Stamp(*own), digest, seal) for *own, digest, seal in rows)
        return {stamp: digest for stamp, digest, seal in read if stamp in wanted and seal == _seal(stamp, digest)}

    return _asked(found) or {}


def keep(digests: Mapping[Stamp, str], since: int) -> None:
    """Keep the hashes of files that were read since this time, in nanoseconds; not if the cache folder cannot be written to."""
    settled = since - SETTLED_NS
    rows = [
        (*stamp, digest, _seal(stamp, digest))
        for stamp, digest in digests.items()
        if max(stamp.modified, stamp.changed) < settled
    ]

    def write(kept: sqlite3.Connection) -> None:
        with kept:
            kept.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    _asked(write)


def _seal(stamp: Stamp, digest: str) -> str:
    """What a row must hold, so that a damaged one is not believed."""
    return fingerprint({**stamp._asdict(), "digest": digest})


def _asked(question: Callable[[sqlite3.Connection], Value]) -> Value | None:
    """What the open database says; None where that fails. A damaged one is removed."""
    file = cache_folder() / "digests.sqlite"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file)) as kept:
            kept.execute(f"CREATE TABLE IF NOT EXISTS digests ({COLUMNS})")
            return question(kept)
    except (OSError, sqlite3.OperationalError):  # no room, no right to write, locked by another process
        return None
    except (sqlite3.DatabaseError, TypeError, ValueError):
        file.unlink(missing_ok=True)
        return None
