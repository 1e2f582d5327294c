"""A state <-> its file, and whether what goes on is what was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rl_det.storage.files import finite, write_with


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Tensors and plain values; a crash or a full disk leaves the former file as it was, and OSError names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with(path, lambda file: torch.save(state, file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` has written, on the CPU; ValueError, naming the file, where it cannot be read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes of a broken file provoke
        message = f"torch cannot load it ({type(error).__name__}); remove it to start afresh"
        raise ValueError(f"{path}: must be a readable checkpoint; {message}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: must be a checkpoint, a dictionary; got {type(state).__name__}")
    return state


def check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ValueError, naming the file and what differs, if what goes on is not what was stopped."""
    for name in (*now, *(name for name in then if name not in now)):
        before, after = (_plain(entries.get(name)) for entries in (then, now))
        if before != after:
            raise ValueError(
                f"{path}: what goes on must be what was stopped; {name} was {before} and is {after}; "
                "choose the same, or start afresh elsewhere"
            )


def _plain(value: Any) -> Any:
    """As JSON would bring it back."""
    return json.loads(json.dumps(finite(value), default=str))
