"""Write and read checkpoints, and check that a resumed run is the one that was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rl_det.errors import UserError
from rl_det.storage.files import finite, write_with


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; after a crash or on a full disk the old file is intact, and OSError names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_with(path, lambda file: torch.save(state, file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, to the CPU; ValueError, which names the file, if it cannot be read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes of a broken file provoke
        message = f"torch cannot load it ({type(error).__name__}); remove it to start afresh"
        raise UserError(f"{path}: must be a readable checkpoint; {message}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: must be a checkpoint, a dictionary; got {type(state).__name__}")
    return state


def check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the file and the difference, unless the resumed run is the stopped one."""
    for name in (*now, *(name for name in then if name not in now)):
        before, after = (_plain(entries.get(name)) for entries in (then, now))
        if before != after:
            raise UserError(
                f"{path}: what goes on must be what was stopped; {name} was {before} and is {after}; "
                "choose the same, or start afresh elsewhere"
            )


def _plain(value: Any) -> Any:
    """The value after a round trip through JSON."""
    return json.loads(json.dumps(finite(value), default=str))
