"""Run folders: configuration, metrics (written during the run), checkpoints and results, each file written whole."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rl_det.errors import PathError, UserError
from rl_det.storage.checkpoint import check_same
from rl_det.storage.files import as_json, check_writable, finite, write_whole

CONFIG, METRICS, RESULTS = "config.json", "metrics.jsonl", "results.json"
TENSORBOARD, CHECKPOINTS, DETECTIONS, TUNED = "tensorboard", "checkpoints", "test_detections", "model.json"
ENCODINGS, TRUTHS, PAGE = "encodings", "test_truths.npz", "report.html"
WANDB, TRACKERS = "wandb", "trackers.json"
PARTS = (TENSORBOARD, CHECKPOINTS, DETECTIONS, ENCODINGS, WANDB)
"""The subfolders of a run, besides those of its tuned detectors."""


class Run:
    """An open run folder: `config.json`, `metrics.jsonl`, `checkpoints/`, `results.json`, and other files of the run.

    `identity` is all that the results depend on, in JSON's types. `circumstances` (versions, machine, command) are
    stored beside it. A folder that already holds a run can only be opened to resume the same run (`resume`) or to
    replace it (`overwrite`). Otherwise, and for a folder that cannot be written to, ValueError is raised and nothing is
    written.
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
                remove_run(folder)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not (folder / CONFIG).exists():
                write_whole(folder / CONFIG, as_json({"run": identity, "circumstances": circumstances or {}}))
            self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        except OSError as error:
            raise PathError(f"{folder}: the run's folder must be one that can be written to; got {error}") from error

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; a run that fails before it has done anything, as on a broken image, leaves nothing."""
        self._metrics.close()
        if isinstance(error, Exception) and not self._has_begun():
            remove_run(self.folder)
            with contextlib.suppress(OSError):  # where the folder holds what is not the run's
                self.folder.rmdir()

    def _has_begun(self) -> bool:
        """Whether the run has written a metric, a checkpoint or a result."""
        written = (self.folder / METRICS).stat().st_size > 0 or (self.folder / RESULTS).exists()
        return written or any(self.checkpoints.iterdir())

    def log(self, step: int, stage: str, metrics: Mapping[str, float | list[float]]) -> None:
        """Write one line of `metrics.jsonl` at once; NaN becomes null. A list is a curve."""
        self._metrics.write(json.dumps(finite({"stage": stage, "step": step, **metrics})) + "\n")
        self._metrics.flush()

    def drop_metrics_after(self, stage: str, step: int) -> None:
        """Remove the stage's lines after this step, which will be written again, and an incomplete line left by a crash."""
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
        """Write `results.json`, with null for NaN."""
        path = self.folder / RESULTS
        write_whole(path, as_json(results))
        return path


def check_run_folder(folder: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Raise ValueError for a folder that is not writable, or holds a run that may be neither resumed nor replaced.

    A run may be resumed if `resume` is set and its identity is the same. It may be replaced if `overwrite` is set. Both
    at once are refused.
    """
    if resume and overwrite:
        raise UserError("resume goes on with a run, overwrite replaces it; give one of the two")
    check_writable(folder)
    file = folder / CONFIG
    if not file.exists():
        return
    if resume:
        check_same(file, read_identity(folder), identity)
    elif not overwrite:
        raise UserError(
            f"{folder}: holds a run already; resume (--resume) goes on with it, overwrite (--overwrite) replaces it, "
            "and another folder (--out) leaves it alone"
        )


def read_identity(folder: Path) -> dict[str, Any]:
    """The identity of the run in this folder. Raises ValueError if it cannot be read."""
    identity: dict[str, Any] = read_config(folder)["run"]
    return identity


def read_config(folder: Path) -> dict[str, Any]:
    """The identity ("run") of the run in this folder, and its circumstances. Raises ValueError if it cannot be read."""
    file = folder / CONFIG
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: must be a run's configuration; got {error}; --overwrite begins anew") from error
    if not isinstance(config, dict) or not isinstance(config.get("run"), dict):
        raise UserError(f"{file}: is not a configuration of this version of rl_det; --overwrite begins anew")
    return config


def remove_run(folder: Path) -> None:
    """Remove only the files of a run; the configuration last, so that a half removed run still counts as one."""
    if not (folder / CONFIG).exists():
        return
    for tuned in folder.glob(f"*/{TUNED}"):
        shutil.rmtree(tuned.parent)
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
    for name in (PAGE, TRUTHS, TRACKERS, METRICS, RESULTS, CONFIG):
        (folder / name).unlink(missing_ok=True)
