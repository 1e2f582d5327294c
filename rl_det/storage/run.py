"""A run is a folder: its configuration, its metrics as they come, its checkpoints and its results, each written whole."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rl_det.storage.checkpoint import check_same
from rl_det.storage.files import as_json, check_writable, finite, write_whole

CONFIG, METRICS, RESULTS = "config.json", "metrics.jsonl", "results.json"
TENSORBOARD, CHECKPOINTS, DETECTIONS, TUNED = "tensorboard", "checkpoints", "test_detections", "model.json"
PARTS = (TENSORBOARD, CHECKPOINTS, DETECTIONS)
"""The folders of a run; those of its tuned detectors stand beside them."""


class Run:
    """An open run folder: `config.json`, `metrics.jsonl`, `checkpoints/`, `results.json`, and what else is put there.

    `identity` says, in JSON's types, all that the results depend on; `circumstances` (versions, machine, command) stand
    beside it. A folder that holds a run is only entered to go on with the very same run (`resume`), or to replace it
    (`overwrite`). Raises ValueError, with nothing written, where neither is the case, and for a folder that cannot be
    written to.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        circumstances: dict[str, Any] | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        check_run_folder(folder, identity, resume=resume, overwrite=overwrite)
        self.folder, self.checkpoints = folder, folder / CHECKPOINTS
        try:
            if overwrite and not resume:
                _remove_run(folder)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not (folder / CONFIG).exists():
                write_whole(folder / CONFIG, as_json({"run": identity, "circumstances": circumstances or {}}))
            self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{folder}: the run's folder must be one that can be written to; got {error}") from error

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; a run that fails before anything is done, as on a broken image, leaves nothing."""
        self._metrics.close()
        if isinstance(error, Exception) and not self._has_begun():
            _remove_run(self.folder)
            with contextlib.suppress(OSError):  # where the folder holds what is not the run's
                self.folder.rmdir()

    def _has_begun(self) -> bool:
        """Whether there is a metric, a checkpoint or a result."""
        written = (self.folder / METRICS).stat().st_size > 0 or (self.folder / RESULTS).exists()
        return written or any(self.checkpoints.iterdir())

    def log(self, step: int, stage: str, metrics: Mapping[str, float | list[float]]) -> None:
        """One line of `metrics.jsonl`, there at once; NaN is written as null. A list is a curve."""
        self._metrics.write(json.dumps(finite({"stage": stage, "step": step, **metrics})) + "\n")
        self._metrics.flush()

    def drop_metrics_after(self, stage: str, step: int) -> None:
        """Remove the stage's lines beyond this step, which come again, and a line that a crash cut off."""
        self._metrics.close()
        kept = []
        for line in (self.folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry["stage"] != stage or entry["step"] <= step:
                    kept.append(line)
        write_whole(self.folder / METRICS, "".join(kept))
        self._metrics = (self.folder / METRICS).open("a", encoding="utf-8")

    def write_results(self, results: dict[str, Any]) -> Path:
        """`results.json`, NaN as null."""
        path = self.folder / RESULTS
        write_whole(path, as_json(results))
        return path


def check_run_folder(folder: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """ValueError unless the folder can be written to and is empty of runs, or holds this very run and is to go on."""
    check_writable(folder)
    file = folder / CONFIG
    if not file.exists():
        return
    if resume:
        check_same(file, read_identity(folder), identity)
    elif not overwrite:
        raise ValueError(
            f"{folder}: holds a run already; resume (--resume) goes on with it, overwrite (--overwrite) replaces it, "
            "and another folder (--out) leaves it alone"
        )


def read_identity(folder: Path) -> dict[str, Any]:
    """What the results of the run in this folder depend on. Raises ValueError where that cannot be read."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: must be a run's configuration; got {error}; --overwrite begins anew") from error
    identity = config.get("run") if isinstance(config, dict) else None
    if not isinstance(identity, dict):
        raise ValueError(f"{file}: is not a configuration of this version of rl_det; --overwrite begins anew")
    return identity


def _remove_run(folder: Path) -> None:
    """Remove what a run writes, and nothing else; the configuration last, so that a half removed run is still one."""
    if not (folder / CONFIG).exists():
        return
    for tuned in folder.glob(f"*/{TUNED}"):
        shutil.rmtree(tuned.parent)
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
    for name in (METRICS, RESULTS, CONFIG):
        (folder / name).unlink(missing_ok=True)
