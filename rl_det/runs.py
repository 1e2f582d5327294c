"""A run is a folder: its configuration, its metrics as they come, its checkpoints and its results, each written whole."""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch


class Run:
    """An open run folder: `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `results.json`.

    Files that an earlier run left in it are replaced, one by one and whole. A run that goes on where it was stopped says
    up to which step of each stage it keeps its metrics (`going_on`); all later ones come again. Raises ValueError, with
    nothing written, if the folder cannot be made or written to.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], seed: int, *, going_on: Mapping[str, int] | None = None
    ) -> None:
        self.folder = folder
        metrics = folder / "metrics.jsonl"
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            write_whole(folder / "config.json", _json({**config, "seed": seed}))
            write_whole(metrics, "".join(_lines_up_to(metrics, going_on or {})))
            self._metrics = metrics.open("a", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{folder}: the run's folder must be one that can be written to; got {error}") from error
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only runs need it

        last = max(going_on.values(), default=0) if going_on else None
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=None if last is None else last + 1)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.close()
        self._tensorboard.close()

    def log(self, step: int, stage: str, metrics: Mapping[str, float | list[float]]) -> None:
        """One line of `metrics.jsonl`, there at once, and the same for TensorBoard; NaN is written as null.

        A list is a curve, and TensorBoard shows it over its index.
        """
        self._metrics.write(json.dumps(_finite({"stage": stage, "step": step, **metrics})) + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            points = enumerate(value) if isinstance(value, list) else [(step, value)]
            for place, height in points:
                self._tensorboard.add_scalar(f"{stage}/{name}", height, place)

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> Path:
        """`checkpoints/NAME.pt`; a crash or a full disk leaves the former one as it was, and OSError names the file."""
        path = self.folder / "checkpoints" / f"{name}.pt"
        write_with(path, lambda file: torch.save(state, file))
        return path

    def write_results(self, results: dict[str, Any]) -> Path:
        """`results.json`, NaN as null."""
        path = self.folder / "results.json"
        write_whole(path, _json(results))
        return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Run.save_checkpoint` has written, on the CPU; ValueError, naming the file, where it cannot be read."""
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


def check_writable(folder: Path) -> None:
    """ValueError if the folder could not be made or written to; nothing is left behind."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: the run's folder must be one that can be written to; got {error}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or as it was before."""
    write_with(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_with(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    beside = Path(name)
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise OSError(f"{path}: could not be written ({error}); the former file, if any, is untouched") from error
    finally:
        beside.unlink(missing_ok=True)


def cache_folder() -> Path:
    """$RL_DET_CACHE, or rl_det in the user's cache folder."""
    own = os.environ.get("RL_DET_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl_det"


def fingerprint(config: dict[str, Any]) -> str:
    """16 hex digits that two configurations share only if they are equal."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _lines_up_to(path: Path, steps: Mapping[str, int]) -> list[str]:
    """The lines of a `metrics.jsonl` whose stage is named and whose step is not beyond; a line cut off by a crash is not."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if steps and path.exists() else []:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry["step"] <= steps.get(entry["stage"], -1):
                kept.append(line)
    return kept


def _plain(value: Any) -> Any:
    """As JSON would bring it back."""
    return json.loads(json.dumps(_finite(value), default=str))


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=2, default=str) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
