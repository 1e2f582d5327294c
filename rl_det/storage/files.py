"""Write files whole or not at all, and values as JSON."""

import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rl_det.errors import PathError

PROBE = 2**20
"""The bytes that a disk must take if a writer has failed for another reason."""


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, which takes no room where both are on one disk; the first may be replaced or removed."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        write_with(target, partial(shutil.copyfile, source))


def write_whole(path: Path, text: str) -> None:
    """Write a text file; a crash leaves the old file or the new one, never a part."""
    write_with(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_with(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` write to a temporary file beside `path`, then move it to `path`, with normal file permissions."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # some writers make their files private
        write(beside)
        beside.chmod(mode)
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except Exception as error:
        refused = error if isinstance(error, OSError) else _refusal(beside)
        if refused is None:
            raise
        raise PathError(f"{path}: could not be written ({refused}); the former file, if any, is untouched") from error
    finally:
        beside.unlink(missing_ok=True)


def _refusal(file: Path) -> OSError | None:
    """The error of a disk that takes no more, which torch and safetensors hide in errors of their own; None: it does."""
    try:
        with file.open("ab") as end:
            end.write(bytes(PROBE))
    except OSError as error:
        return error
    return None


def reserve(path: Path) -> None:
    """Take the disk's room for all of a file that has holes, so that writing to its memory map cannot fail later.

    A full disk raises OSError here; in the memory map, it would end the process.
    """
    with path.open("r+b") as file:
        size = path.stat().st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def check_writable(folder: Path) -> None:
    """Raise ValueError if the folder cannot be made or written to; nothing is left behind."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise PathError(f"{folder}: the folder must be one that can be written to; got {error}") from error


def as_json(value: Any) -> str:
    """Indented JSON that ends with a newline; NaN and infinity become null."""
    return json.dumps(finite(value), indent=2, default=str) + "\n"


def finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
