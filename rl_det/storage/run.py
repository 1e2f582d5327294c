"""A run is a folder: its configuration, its metrics as they come, its checkpoints and its results, each written whole."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from rl_det.storage.files import as_json, finite, write_whole, write_with


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
            write_whole(folder / "config.json", as_json({**config, "seed": seed}))
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
        self._metrics.write(json.dumps(finite({"stage": stage, "step": step, **metrics})) + "\n")
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
        write_whole(path, as_json(results))
        return path


def _lines_up_to(path: Path, steps: Mapping[str, int]) -> list[str]:
    """The lines of a `metrics.jsonl` whose stage is named and whose step is not beyond; a line cut off by a crash is not."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if steps and path.exists() else []:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if entry["step"] <= steps.get(entry["stage"], -1):
                kept.append(line)
    return kept
