"""Checksums of files, and JSON files that notice a change of their own bytes."""

import json
import zlib
from pathlib import Path
from typing import Any

from rl_det.errors import UserError
from rl_det.storage.files import as_json, write_whole

CHUNK = 2**24
"""The bytes that are read at once."""


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


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write JSON together with its own checksum."""
    write_whole(path, _sealed(value))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote. Raises OSError if there is no file, and ValueError if any byte has changed."""
    found = path.read_bytes()
    value: dict[str, Any] = json.loads(found)["value"]
    if found != _sealed(value).encode():
        raise UserError(f"{path}: must be as it was written; its bytes have changed; delete it to have it made anew")
    return value


def _sealed(value: dict[str, Any]) -> str:
    text = as_json(value)
    return as_json({"value": json.loads(text), "checksum": f"{zlib.crc32(text.encode()):08x}"})
