"""Trackers show a run's metrics while it goes on: TensorBoard, Weights & Biases or MLflow, all through one callback.

Each strategy is one run of the tracker, and the run folder's name groups them. The run's `config.json` goes with it. The
folder keeps the ids of these runs (`trackers.json`), so a resumed run goes on in the same ones. The updates after its
last checkpoint are then made again, with the same numbers: TensorBoard drops the old ones, and the others are not told a
step twice that they have. A tracker's own environment variables hold: WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, ...
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from rl_det.errors import UserError
from rl_det.progress import tell
from rl_det.storage.checksums import read_sealed, write_sealed
from rl_det.storage.run import CONFIG, TENSORBOARD, TRACKERS, read_config
from rl_det.training.loop import Callback, Ending, FitRun

TrackerName = Literal["tensorboard", "wandb", "mlflow", "none"]
PROJECT = "rl_det"
"""The project of Weights & Biases, or experiment of MLflow, unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names another."""


@runtime_checkable
class Writer(Protocol):
    """A tracker's run."""

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the metrics of one update."""
        ...

    def close(self, *, failed: bool) -> None:
        """End the run; `failed` if an exception ended it."""
        ...


class Tracking(Callback):
    """Write every update's metrics with a writer, which is opened when a run starts and closed when it ends.

    `open_writer` takes the run's name and the first update that it is told of: 0 where the start is validated. List it
    after a checkpoint's callback, so that a resumed run begins at the right one.
    """

    def __init__(self, open_writer: Callable[[str, int], Writer]) -> None:
        self.open_writer = open_writer

    def on_start(self, run: FitRun) -> None:
        self.writer = self.open_writer(run.name, run.update + 1 if run.begun else 0)

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        self.writer.write(metrics, run.update)

    def on_end(self, run: FitRun, ending: Ending) -> None:
        self.writer.close(failed=False)

    def on_error(self, run: FitRun) -> None:
        self.writer.close(failed=True)


def tracking(name: TrackerName, folder: Path) -> list[Tracking]:
    """The callback that writes the runs of this folder to the tracker; nothing for "none"."""
    return [] if name == "none" else [Tracking(partial(_writer, name, folder))]


@contextmanager
def tracked(name: TrackerName, folder: Path, run: str) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """A context with a function that writes a step's metrics to the tracker, for training that is not in our loop."""
    if name == "none":
        yield lambda metrics, step: None
        return
    writer, failed = _writer(name, folder, run, 0), True
    try:
        yield writer.write
        failed = False
    finally:
        writer.close(failed=failed)


def _writer(name: TrackerName, folder: Path, run: str, first: int) -> Writer:
    writers: dict[str, Callable[[Path, str, int], Writer]] = {
        "tensorboard": TensorBoardWriter, "wandb": WandbWriter, "mlflow": MlflowWriter,
    }  # fmt: skip
    return writers[name](folder, run, first)


def check_tracker(name: TrackerName) -> None:
    """Raise UserError for an unknown tracker, one that is not installed, or one that no run could be written to."""
    if name == "wandb":
        _check_wandb()
    elif name == "mlflow":
        _check_mlflow()
    elif name not in ("tensorboard", "none"):
        raise UserError(f"track must be one of tensorboard, wandb, mlflow, none; got {name!r}; tensorboard is usual")


class TensorBoardWriter:
    """TensorBoard's files, in a folder for each run's name, so that their curves share the plots."""

    def __init__(self, folder: Path, name: str, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.writer = SummaryWriter(str(folder / TENSORBOARD / name), purge_step=first)

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Write a point of each metric's curve."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        """Write what is left, and close the file."""
        self.writer.close()


class WandbWriter:
    """A run of Weights & Biases; offline (WANDB_MODE=offline), its files stay in the folder until `wandb sync` sends them.

    A run that resumes offline has a second file under the same id. After a crash, both hold the updates since the last
    checkpoint, because no file of W&B's can be asked for its steps.
    """

    def __init__(self, folder: Path, name: str, first: int) -> None:
        wandb = _library("wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=os.environ.get("WANDB_RUN_GROUP", folder.name),
            name=f"{folder.name}/{name}",
            id=_kept_id(folder, "wandb", name),
            resume="allow",
            reinit="create_new",
            dir=folder,
            config=_config(folder),
            settings=wandb.Settings(console="off", quiet=True),
        )
        _keep_id(folder, "wandb", name, self.run.id)
        self.first = self.run.step
        """The step after the last that W&B has."""

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the metrics, unless W&B has this step."""
        if step >= self.first:
            self.run.log(dict(metrics), step=step)

    def close(self, *, failed: bool) -> None:
        """Send or write what is left."""
        self.run.finish(exit_code=int(failed))


class MlflowWriter:
    """A run of MLflow, with `config.json` as an artifact, and the strategy's settings as parameters."""

    def __init__(self, folder: Path, name: str, first: int) -> None:
        self.client = _library("mlflow").MlflowClient()
        self.id = _kept_id(folder, "mlflow", name) or self._created(folder, name)
        self.client.update_run(self.id, status="RUNNING")
        known = self.client.get_run(self.id).data.metrics
        steps = [own.step for metric in known for own in self.client.get_metric_history(self.id, metric)]
        self.first = max(steps, default=-1) + 1
        """The step after the last that MLflow has."""
        self.told: list[Any] = []
        """The batches that have been on their way."""

    def _created(self, folder: Path, name: str) -> str:
        """The id of a new run, which is kept in the folder."""
        experiment, group = _experiment(self.client), folder.name
        run = self.client.create_run(experiment, run_name=f"{group}/{name}", tags={"group": group})
        identifier: str = run.info.run_id
        _keep_id(folder, "mlflow", name, identifier)
        if (folder / CONFIG).exists():
            self.client.log_artifact(identifier, str(folder / CONFIG))
        for key, value in _settings_of(name, _config(folder)).items():
            self.client.log_param(identifier, key, value)
        return identifier

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the metrics, unless MLflow has this step."""
        if step >= self.first:
            metric, now = importlib.import_module("mlflow.entities").Metric, int(1000 * time.time())
            told = [metric(name, value, now, step) for name, value in metrics.items()]
            self.told.append(self.client.log_batch(self.id, told, synchronous=False))  # a store on disk takes its time

    def close(self, *, failed: bool) -> None:
        """Write what is left, and end the run."""
        try:
            for batch in self.told:
                batch.wait()
            self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")
        except importlib.import_module("mlflow.exceptions").MlflowException as error:  # what was trained is not lost
            tell(f"warning: MLflow lacks some metrics, which metrics.jsonl has: {error}")


def _library(name: Literal["wandb", "mlflow"]) -> Any:
    """The tracker's library, an optional extra. Raises UserError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"track={name} needs the library {name}, which cannot be imported ({error}); install it by "
            f"pip install 'rl_det[{name}]'"
        ) from error


def _check_wandb() -> None:
    """Raise UserError if W&B is not installed, or is online without a login that its server takes."""
    wandb = _library("wandb")
    if wandb.setup().settings.mode != "online":
        return
    try:
        found, why = wandb.login(prompt=False), "there is none"
    except wandb.Error as error:
        found, why = False, " ".join(str(error).split())
    if not found:
        raise UserError(f"track=wandb needs a login (wandb login), or WANDB_MODE=offline; {why}")


def _check_mlflow() -> None:
    """Raise UserError if MLflow is not installed, or its store cannot be opened."""
    mlflow = _library("mlflow")
    try:
        _experiment(mlflow.MlflowClient())
    except mlflow.MlflowException as error:
        told = " ".join(str(error).split())
        raise UserError(f"track=mlflow needs a store that opens (MLFLOW_TRACKING_URI); {told}") from error


def _experiment(client: Any) -> str:
    """The id of the experiment, which is made if there is none."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    there = client.get_experiment_by_name(name)
    identifier: str = client.create_experiment(name) if there is None else there.experiment_id
    return identifier


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of the folder's run; empty if it has none."""
    return read_config(folder) if (folder / CONFIG).exists() else {}


def _settings_of(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one strategy, flat; empty for a strategy that the configuration does not list, as the control."""
    strategies = config.get("run", {}).get("strategies", [])
    return next((flat(own) for own in strategies if own["name"] == name), {})


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with names joined by dots."""
    parts: dict[str, Any] = {}
    for name, value in settings.items():
        parts |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return parts


def _ids(folder: Path, warn: Callable[[str], Any]) -> dict[str, dict[str, str]]:
    """The ids of all runs of this folder, by tracker and name; if they are damaged there are none, and `warn` is told so."""
    file = folder / TRACKERS
    if not file.exists():
        return {}
    try:
        return _checked_ids(file)
    except UserError as error:
        warn(f"warning: {error}; new runs begin in the tracker")
        return {}


def _checked_ids(file: Path) -> dict[str, dict[str, str]]:
    """The ids that the file holds; UserError, which names it, if it is damaged or holds anything else."""
    what = "the ids of a tracker's runs"
    kept = read_sealed(file, what)
    for tracker, ids in kept.items():
        if not isinstance(ids, dict) or not all(isinstance(identifier, str) for identifier in ids.values()):
            raise UserError(f"{file}: must be {what}; got {ids!r} for {tracker}")
    return kept


def _kept_id(folder: Path, tracker: str, name: str) -> str | None:
    return _ids(folder, tell).get(tracker, {}).get(name)


def _keep_id(folder: Path, tracker: str, name: str, identifier: str) -> None:
    ids = _ids(folder, lambda _: None)  # it was told when the id was looked for
    write_sealed(folder / TRACKERS, {**ids, tracker: {**ids.get(tracker, {}), name: identifier}})
