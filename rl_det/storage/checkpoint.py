"""Write and read checkpoints, and check that a resumed run is the one that was stopped."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rl_det.errors import UserError
from rl_det.storage.files import finite, write_with

SEAL = b"rl_det sha256 "
"""What stands at the end of a checkpoint, before the hash of all bytes in front of it."""
NEXT, FORMER, UNFINISHED = ".next", ".former", ".unfinished"
"""What follows a checkpoint's stem: while it is written, in the one before it, and in that of a row which still trains."""
SEALED = len(SEAL) + hashlib.sha256().digest_size


class DamagedError(UserError):
    """A checkpoint that cannot be read, or whose bytes have changed."""


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values with a checksum; the file that was there before stays beside it, as `former(path)`.

    After a crash or on a full disk, whole files alone are there, and OSError names the one that could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    newest = _beside(path, NEXT)
    write_with(newest, partial(_write_sealed, state))
    if path.exists():
        path.replace(former(path))
    newest.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, to the CPU; DamagedError, which names the file, if it is not whole.

    Nothing is unpickled but tensors and plain values.
    """
    try:
        told = path.read_bytes()
    except OSError as error:
        raise DamagedError(f"{path}: must be a checkpoint; it cannot be read ({error})") from error
    body, seal = memoryview(told)[:-SEALED], told[-SEALED:]
    if seal != SEAL + hashlib.sha256(body).digest():
        raise DamagedError(f"{path}: must be a whole checkpoint; its checksum is wrong")
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes of a strange file provoke
        raise DamagedError(
            f"{path}: must be a checkpoint of rl_det; torch cannot load it ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict):
        raise DamagedError(f"{path}: must be a checkpoint, a dictionary; got {type(state).__name__}")
    return state


def latest_checkpoint(path: Path, warn: Callable[[str], Any]) -> dict[str, Any] | None:
    """The checkpoint at `path`, or the one before it if that is damaged, which `warn` is told; None if there is none.

    Raises DamagedError, which names the file, if no whole one is there, or a folder lies where one must be written.
    """
    there = [file for file in (path, former(path)) if file.exists()]
    if strange := [file for file in there if not file.is_file()]:
        raise DamagedError(f"{strange[0]}: must be a checkpoint, a file; it is none; move it away")
    for file in there:
        try:
            return read_checkpoint(file)
        except DamagedError as error:
            if file == there[-1]:
                raise DamagedError(f"{error}; remove it to start afresh") from error
            warn(f"warning: {error}; the one before is used")
    return None


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """A context in which a run takes over what `latest_checkpoint` gave; DamagedError, which names the file, if it cannot.

    A checksum says that a file is as it was written, not that this run has written it. An error of the machine (no memory, no
    disk) is no file's fault, and passes.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # what strange entries provoke
        told = " ".join(str(error).split())
        there = [str(file) for file in (path, former(path)) if file.exists()]
        raise DamagedError(
            f"{' and '.join(there)}: must be of this run; what the newest whole one holds does not fit "
            f"({type(error).__name__}: {told}); remove {'both' if there[1:] else 'it'} to start afresh"
        ) from error


def has_checkpoint(path: Path) -> bool:
    """Whether a checkpoint, or the one before it, is at `path`; it may be damaged."""
    return path.exists() or former(path).exists()


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and the one before it."""
    for file in (path, former(path), _beside(path, NEXT)):
        file.unlink(missing_ok=True)


def former(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is."""
    return _beside(path, FORMER)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.stem}{what}{path.suffix}")


def _write_sealed(state: dict[str, Any], file: Path) -> None:
    torch.save(state, file)
    with file.open("rb") as body:
        digest = hashlib.file_digest(body, "sha256").digest()
    with file.open("ab") as end:
        end.write(SEAL + digest)


def check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the file and the difference, unless the resumed run is the stopped one."""
    if found := difference(then, now):
        name, before, after = found
        raise UserError(
            f"{path}: what goes on must be what was stopped; {name} was {before} and is {after}; "
            "choose the same, or start afresh elsewhere"
        )


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The name of the first entry in which two identities differ, and its value in each; None if they are the same."""
    for name in (*now, *(name for name in then if name not in now)):
        before, after = (_plain(entries.get(name)) for entries in (then, now))
        if before != after:
            return name, before, after
    return None


def _plain(value: Any) -> Any:
    """The value after a round trip through JSON."""
    return json.loads(json.dumps(finite(value), default=str))
