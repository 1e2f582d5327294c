"""Checksums of files, and JSON files that notice a change of their own bytes."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_det.errors import UserError
from rl_det.storage.files import as_json, write_whole

CHUNK = 2**24
"""The bytes that are read at once."""
SEAL = "checksum"
"""The last entry of a JSON file that notices a change of its own bytes: the CRC-32 of the file without it."""


def checksum(path: Path, *, blank: tuple[int, bytes] = (0, b"")) -> str:
    """8 hex digits (CRC-32) of a file's bytes, which any single changed byte changes; some GB a second.

    `blank` is a place and the bytes that are taken instead of those there.
    """
    place, instead = blank
    with path.open("rb") as file:
        found = zlib.crc32(instead, zlib.crc32(file.read(place)))
        file.seek(place + len(instead))
        while part := file.read(CHUNK):
            found = zlib.crc32(part, found)
    return f"{found:08x}"


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object together with its own checksum."""
    write_whole(path, _sealed(value))


def read_sealed(path: Path, what: str, *, demanded: bool = False) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises UserError, which names the file and what it must be, if it is no regular file, holds no JSON object, or has
    changed by a byte. An object without a checksum, as older versions wrote it, is taken as it is, unless one is
    demanded.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError("no regular file")
        found = path.read_bytes()
        value = json.loads(found)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: must be {what}; got {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be {what}; got JSON that is no object")
    if value.pop(SEAL, None) is None and not demanded:
        return value
    if found != _sealed(value).encode():
        raise UserError(f"{path}: must be {what}; it is damaged: its bytes have changed since it was written")
    return value


def _sealed(value: Mapping[str, Any]) -> str:
    text = as_json(value)
    return as_json({**json.loads(text), SEAL: f"{zlib.crc32(text.encode()):08x}"})
