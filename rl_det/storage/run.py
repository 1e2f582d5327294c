"""Run folders: configuration, metrics (written during the run), checkpoints and results, each file written whole."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rl_det.errors import PathError, UserError
from rl_det.storage.checkpoint import check_same
from rl_det.storage.checksums import checksum, read_sealed, write_sealed
from rl_det.storage.files import check_writable, finite, write_whole
from rl_det.storage.lock import alone_in
from rl_det.version import __version__

CONFIG, METRICS, RESULTS = "config.json", "metrics.jsonl", "results.json"
TENSORBOARD, CHECKPOINTS, DETECTIONS, TUNED = "tensorboard", "checkpoints", "test_detections", "model.json"
ENCODINGS, TRUTHS, PAGE = "encodings", "test_truths.npz", "report.html"
WANDB, TRACKERS = "wandb", "trackers.json"
COMPARISON = "comparison.json"
"""In a comparison's folder, beside the folders of its runs: its numbers."""
START = "warm_start.safetensors"
"""Among the checkpoints: the warm start with which the run began."""
PARTS = (TENSORBOARD, CHECKPOINTS, DETECTIONS, ENCODINGS, WANDB)
"""The subfolders of a run, besides those of its tuned detectors."""
FILES = (PAGE, TRUTHS, TRACKERS, METRICS, RESULTS, CONFIG)
"""The files of a run beside its subfolders; the configuration last."""
CHECKSUMS = "checksums"
"""The entry of `results.json` with the checksums of the files that a report reads beside it."""


class Run:
    """An open run folder: `config.json`, `metrics.jsonl`, `checkpoints/`, `results.json`, and other files of the run.

    `identity` is all that the results depend on, in JSON's types. `circumstances` (versions, machine, command) are
    stored beside it. A folder that already holds a run can only be opened to resume the same run (`resume`) or to
    replace it (`overwrite`). Otherwise, for a folder that cannot be written to, and while another program has this run open,
    ValueError is raised and nothing is written.
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
        self.folder, self.checkpoints = folder, folder / CHECKPOINTS
        with contextlib.ExitStack() as alone:
            alone.enter_context(alone_in(folder, "run"))
            self._open(identity, circumstances or {}, resume=resume, overwrite=overwrite)
            self._alone = alone.pop_all()

    def _open(self, identity: dict[str, Any], circumstances: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        folder = self.folder
        check_run_folder(folder, identity, resume=resume, overwrite=overwrite)
        is_new = not (folder / CONFIG).exists()
        self._not_ours = frozenset(file.name for file in folder.glob("*")) if is_new else frozenset()
        try:
            if overwrite and not resume:
                remove_run(folder)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not (folder / CONFIG).exists():
                config = {"rl_det": __version__, "run": identity, "circumstances": circumstances}
                write_sealed(folder / CONFIG, config)
            self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        except OSError as error:
            raise PathError(f"{folder}: the run's folder must be one that can be written to; got {error}") from error

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; a run that fails before it has done anything, as on a broken image, leaves nothing."""
        with self._alone:
            self._metrics.close()
            if isinstance(error, Exception) and not self._has_begun():
                remove_run(self.folder, self._not_ours)
                with contextlib.suppress(OSError):  # where the folder holds what is not the run's
                    self.folder.rmdir()

    def _has_begun(self) -> bool:
        """Whether the run has written a metric, a checkpoint or a result."""
        written = (self.folder / METRICS).stat().st_size > 0 or (self.folder / RESULTS).exists()
        return written or any(file.name != START for file in self.checkpoints.iterdir())

    def log(self, step: int, stage: str, metrics: Mapping[str, float | list[float]]) -> None:
        """Write one line of `metrics.jsonl` at once; NaN becomes null. A list is a curve."""
        self._metrics.write(json.dumps(finite({"stage": stage, "step": step, **metrics})) + "\n")
        self._metrics.flush()

    def drop_metrics_after(self, stages: Collection[str], step: int, warn: Callable[[str], Any]) -> None:
        """Remove these stages' lines after this step, which will be written again, and what is no line (`read_metrics`)."""
        self._metrics.close()
        lines = read_metrics(self.folder, warn)
        kept = [line for line in lines if line["stage"] not in stages or line["step"] <= step]
        write_whole(self.folder / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
        self._metrics = (self.folder / METRICS).open("a", encoding="utf-8")

    def write_results(self, results: dict[str, Any]) -> Path:
        """Write `results.json`, with null for NaN, its own checksum, and those of the files that a report reads beside it."""
        path = self.folder / RESULTS
        beside = [self.folder / name for name in (CONFIG, METRICS, TRUTHS)] + sorted(
            self.folder.glob(f"{DETECTIONS}/*.npz")
        )
        checksums = {file.relative_to(self.folder).as_posix(): checksum(file) for file in beside if file.exists()}
        write_sealed(path, {**results, CHECKSUMS: checksums})
        return path


def check_run_folder(
    folder: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool, rows: Collection[str] = ()
) -> bool:
    """Whether the folder holds this same run, which goes on.

    Raises ValueError for a folder that is not writable, holds a run that may be neither resumed nor replaced, or holds files of
    others under a run's names, or under those of its `rows`. A run may be resumed if `resume` is set and its identity is the
    same. It may be replaced if `overwrite` is set. Both at once are refused.
    """
    if resume and overwrite:
        raise UserError("resume goes on with a run, overwrite replaces it; give one of the two")
    check_writable(folder)
    file = folder / CONFIG
    if not file.exists():
        _check_nothing_is_lost(folder, rows)
        return False
    if resume:
        check_same_run(folder, identity)
    elif not overwrite:
        raise UserError(
            f"{folder}: holds a run already; resume (--resume) goes on with it, overwrite (--overwrite) replaces it, "
            "and another folder (--out) leaves it alone"
        )
    return resume


def _check_nothing_is_lost(folder: Path, rows: Collection[str]) -> None:
    """Raise UserError if a folder without a run holds what a run would write over, or an overwritten one would remove."""
    there = [name for name in FILES if (folder / name).exists()]
    there += [f"{name}/" for name in (*PARTS, *rows) if any((folder / name).glob("*"))]
    if there:
        raise UserError(
            f"{folder}: holds {', '.join(there)}, which a run would write over, and no run ({CONFIG}); move that away, or give "
            "another folder (--out)"
        )


def check_same_run(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise ValueError, which names the difference, unless the folder's run has this identity, and is of this version."""
    config = read_config(folder)
    check_same(folder / CONFIG, {"rl_det": config.get("rl_det"), **config["run"]}, {"rl_det": __version__, **identity})


def read_config(folder: Path) -> dict[str, Any]:
    """The identity ("run") of the run in this folder, and its circumstances. Raises ValueError if it cannot be read."""
    file = folder / CONFIG
    try:
        config = read_sealed(file, "a run's configuration")
    except UserError as error:
        raise UserError(f"{error}; --overwrite begins anew") from error
    if not all(isinstance(config.get(name, {}), dict) for name in ("run", "circumstances")) or "run" not in config:
        raise UserError(f"{file}: is not a configuration of this version of rl_det; --overwrite begins anew")
    return config


def read_metrics(folder: Path, warn: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without an incomplete last one, which a crash leaves.

    Lines that no run writes are left out too; `warn` is told how many. Raises ValueError if the file cannot be read.
    """
    file = folder / METRICS
    try:
        *whole, _ = file.read_bytes().split(b"\n") if file.exists() else [b""]
    except OSError as error:
        raise UserError(f"{file}: must be a run's metrics; got {error}") from error
    lines = [line for line in map(_metrics_of, whole) if line is not None]
    if damaged := len(whole) - len(lines):
        warn(f"warning: {file}: {damaged} of {len(whole)} lines are damaged, and left out")
    return lines


def _metrics_of(line: bytes) -> dict[str, Any] | None:
    """What a line of metrics says; None if no run has written it."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("stage"), str) or not _is_number(told.get("step")):
        return None
    metrics = [value for name, value in told.items() if name != "stage"]
    numbers = [part for value in metrics for part in (value if isinstance(value, list) else [value])]
    return told if all(part is None or _is_number(part) for part in numbers) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def remove_run(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove only the files of a run but those to keep; the configuration last, so that a half removed run still counts as one.

    Of the tuned detectors it removes those that bear the name of a row; a user's own exports into the folder stay.
    """
    if not (folder / CONFIG).exists():
        return
    rows = _rows_of(folder) - {*keep}
    for tuned in folder.glob(f"*/{TUNED}"):
        if tuned.parent.name in rows:
            shutil.rmtree(tuned.parent)
    for part in set(PARTS) - {*keep}:
        shutil.rmtree(folder / part, ignore_errors=True)
    for name in FILES:
        if name not in keep:
            (folder / name).unlink(missing_ok=True)


def _rows_of(folder: Path) -> set[str]:
    """The names of a run's rows, by its results and its checkpoints."""
    rows = {file.stem for file in (folder / CHECKPOINTS).glob("*.pt")}
    with contextlib.suppress(UserError, OSError):
        rows |= {*read_sealed(folder / RESULTS, "a run's results").get("methods", {})}
    return rows
