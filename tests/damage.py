"""Damage to files, drawn by a seed: what disks, crashes and strangers do to bytes, and what people do to JSON."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

OTHERS = (None, True, -7, 1.5, "other", [], {}, [1, "a"], {"other": 1}, "1e999", 10**30)
"""Values that stand in for another."""


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Other bytes: one bit flipped, some cut off, added or zeroed, the halves exchanged, or none left."""
    place = draw.randrange(len(content))
    match draw.randrange(6):
        case 0:
            found = content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
        case 1:
            found = content[:place]
        case 2:
            found = content[:place] + draw.randbytes(draw.randint(1, 64)) + content[place:]
        case 3:
            end = min(len(content), place + draw.randint(1, 4096))
            found = content[:place] + bytes(end - place) + content[end:]
        case 4:
            found = content[len(content) // 2 :] + content[: len(content) // 2]
        case _:
            found = b""
    return found if found != content else content + b"\0"


def changed(told: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A copy of what a JSON file says with an entry removed, or with another value, at any depth."""
    told = copy.deepcopy(told)
    holder, key = draw.choice(list(_places(told)))
    if draw.random() < 0.4:
        del holder[key]
    else:
        holder[key] = draw.choice(OTHERS)
    return told


def as_bytes(told: dict[str, Any]) -> bytes:
    """The JSON file."""
    return json.dumps(told, indent=2).encode()


def _places(told: Any) -> Iterator[tuple[Any, Any]]:
    """Each entry of each object and list in it: what holds it, and where."""
    pairs = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    for key, value in pairs:
        yield told, key
        yield from _places(value)
