"""The trackers of a run: every metric at its step through one callback, real TensorBoard, W&B and MLflow, and resuming."""

import importlib
import importlib.util
import json
import math
import random
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from damage import damaged
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.test_callbacks import FIGURES, LOOP, KilledError, kill, outcome
from training.toy import StopAt, ToyLearner, Watch, config
from unchecked import unchecked

from rl_det.errors import UserError
from rl_det.storage.run import TRACKERS, Run, remove_run
from rl_det.training import trackers
from rl_det.training.callbacks import Checkpoint
from rl_det.training.loop import fit
from rl_det.training.trackers import Tracking, check_tracker, flat, tracking

IDENTITY = {"seed": 3, "strategies": [{"name": "toy", "rate": 0.1, "exploration": {"sigma": 0.5}, "weights": [1, 4]}]}
needs_wandb = pytest.mark.skipif(not importlib.util.find_spec("wandb"), reason="wandb, an extra, is not installed")
needs_mlflow = pytest.mark.skipif(not importlib.util.find_spec("mlflow"), reason="mlflow, an extra, is not installed")


class Lines:
    """A writer that keeps all it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.closed: list[bool] = []

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        self.lines.append((step, dict(metrics)))

    def close(self, *, failed: bool) -> None:
        self.closed.append(failed)


def test_every_metric_comes_with_its_step_from_the_start_on() -> None:
    writer, watch = Lines(), Watch()
    fit(ToyLearner(FIGURES), LOOP, name="toy", callbacks=[watch, Tracking(lambda name, first: writer)])
    assert [step for step, _ in writer.lines] == list(range(9))
    assert [metrics for _, metrics in writer.lines] == watch.metrics
    assert [metrics["val_AP"] for _, metrics in writer.lines if "val_AP" in metrics] == FIGURES
    assert writer.closed == [False]


def test_an_update_that_raises_closes_the_writer_as_failed() -> None:
    writer, learner = Lines(), ToyLearner([0.1])

    def broken(number: int) -> None:
        if number == 2:
            raise KilledError

    learner.before = broken
    with pytest.raises(KilledError):
        fit(learner, config(validate_every=4), name="toy", callbacks=[Tracking(lambda name, first: writer)])
    assert writer.closed == [True]
    assert len(writer.lines) == 1


def tracked(name: Any, folder: Path, figures: list[float], *stop: StopAt) -> None:
    """A run in this folder, which goes on if it has begun; `stop` may kill it."""
    with Run(folder, IDENTITY, resume=True) as run:
        outcome(LOOP, figures, Checkpoint(run.checkpoints / "toy.pt"), *tracking(name, folder), *stop)


def test_tensorboard_has_a_curve_for_each_figure_without_what_came_again(tmp_path: Path) -> None:
    tracked("tensorboard", tmp_path, FIGURES, StopAt(5, kill))
    tracked("tensorboard", tmp_path, FIGURES[3:])
    events = EventAccumulator(str(tmp_path / "tensorboard" / "toy"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_AP")] == [0, 2, 4, 6, 8]
    assert [event.value for event in events.Scalars("val_AP")] == pytest.approx(FIGURES)
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))


def test_none_writes_nothing(tmp_path: Path) -> None:
    tracked("none", tmp_path, FIGURES)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network and no login: W&B is offline, MLflow has a local store; and a run's folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "first"


def records(file: Path) -> Iterator[bytes]:
    """The records of LevelDB's log format, which W&B writes after seven bytes of its own, in blocks of 32 KiB."""
    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:  # a block's rest, too short for a header
            place += 2**15 - place % 2**15
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def of_wandb(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The run and the history in a file of W&B's, whose own process may still write it."""
    record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    run: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    everything: list[Any] = []
    for _ in range(300):
        everything = list(map(record.FromString, records(file)))
        if everything and everything[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.1)
    for told in everything:
        if told.WhichOneof("record_type") == "run":
            own = told.run
            run = {item.key: json.loads(item.value_json) for item in own.config.update}
            run |= {"id": own.run_id, "group": own.run_group, "project": own.project, "name": own.display_name}
        if told.WhichOneof("record_type") == "history":
            items = told.history.item
            history.append({(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items})
    return run, history


@needs_wandb
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_has_every_update_and_a_resumed_run_goes_on_under_the_same_id(offline: Path) -> None:
    tracked("wandb", offline, FIGURES, StopAt(5, kill))
    tracked("wandb", offline, FIGURES[3:])
    (first, its), (second, later) = [of_wandb(file) for file in sorted(offline.glob("wandb/offline-run-*/run-*.wandb"))]
    assert first["id"] == second["id"] == json.loads((offline / TRACKERS).read_text())["wandb"]["toy"]
    assert (first["group"], first["project"], first["name"]) == ("first", "rl_det", "first/toy")
    assert first["run"] == IDENTITY
    assert [line["_step"] for line in its] == list(range(6))
    assert [line["_step"] for line in later] == [5, 6, 7, 8]
    assert its[5]["loss"] == later[0]["loss"]
    assert [line["val_AP"] for line in [*its, *later] if "val_AP" in line] == FIGURES


def test_wandb_online_is_not_told_a_step_that_it_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told, ended = [], []
    run = SimpleNamespace(id="7", step=6, log=lambda metrics, step: told.append(step))
    run.finish = lambda exit_code: ended.append(exit_code)
    asked: dict[str, Any] = {}
    fake = SimpleNamespace(init=lambda **options: asked.update(options) or run, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracked("wandb", tmp_path, FIGURES, StopAt(5, kill))
    assert (told, ended) == ([], [1])
    tracked("wandb", tmp_path, FIGURES[3:])
    assert (told, ended) == ([6, 7, 8], [1, 0])
    assert (asked["id"], asked["resume"]) == ("7", "allow")


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_every_update_once_and_a_resumed_run_goes_on_in_the_same_run(offline: Path) -> None:
    client = importlib.import_module("mlflow").MlflowClient()
    tracked("mlflow", offline, FIGURES, StopAt(5, kill))
    kept = json.loads((offline / TRACKERS).read_text())["mlflow"]["toy"]
    assert client.get_run(kept).info.status == "FAILED"
    tracked("mlflow", offline, FIGURES[3:])
    experiment = client.get_experiment_by_name("rl_det")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (kept, "first/toy", "FINISHED")
    assert run.data.tags["group"] == "first"
    assert run.data.params == {"name": "toy", "rate": "0.1", "exploration.sigma": "0.5", "weights": "[1, 4]"}
    assert [own.path for own in client.list_artifacts(kept)] == ["config.json"]
    for name, steps in {"val_AP": [0, 2, 4, 6, 8], "loss": list(range(1, 9))}.items():
        assert sorted(own.step for own in client.get_metric_history(kept, name)) == steps
    assert [own.value for own in client.get_metric_history(kept, "val_AP")] == FIGURES


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_takes_a_figure_that_does_not_exist(offline: Path) -> None:
    tracked("mlflow", offline, [0.1, math.nan, 0.2, 0.3, 0.1])
    kept = json.loads((offline / TRACKERS).read_text())["mlflow"]["toy"]
    history = importlib.import_module("mlflow").MlflowClient().get_metric_history(kept, "val_AP")
    assert math.isnan(history[1].value)


def test_a_run_that_is_replaced_forgets_its_runs_in_the_trackers(tmp_path: Path) -> None:
    with Run(tmp_path, IDENTITY):
        (tmp_path / TRACKERS).write_text("{}")
        (tmp_path / "wandb").mkdir()
    remove_run(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[", "[]", '{"mlflow": []}', '{"mlflow": {"toy": 3}}'])
def test_ids_that_cannot_be_read_are_named_in_one_line_and_new_runs_begin(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / TRACKERS
    file.write_text(content)
    assert trackers._kept_id(tmp_path, "mlflow", "toy") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {file}: must be the ids of a tracker's runs; got ")
    assert line.endswith("; new runs begin in the tracker")
    trackers._keep_id(tmp_path, "mlflow", "toy", "7")
    trackers._keep_id(tmp_path, "wandb", "toy", "8")
    assert [trackers._kept_id(tmp_path, name, "toy") for name in ("mlflow", "wandb")] == ["7", "8"]
    assert not capsys.readouterr().err


def test_damaged_ids_are_noticed_and_those_of_an_older_version_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / TRACKERS
    file.write_text('{"mlflow": {"toy": "7"}}')
    assert trackers._kept_id(tmp_path, "mlflow", "toy") == "7"
    trackers._keep_id(tmp_path, "mlflow", "other", "8")
    sound, draw = file.read_bytes(), random.Random(0)
    for _ in range(50):
        file.write_bytes(damaged(sound, draw))
        assert trackers._kept_id(tmp_path, "mlflow", "toy") is None
        (line,) = capsys.readouterr().err.splitlines()
        assert str(file) in line


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_missing_is_told_with_the_command_that_installs_it(
    name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"track={name} needs the library {name}, .*pip install 'rl_det\[{name}\]'"):
        check_tracker(name)


def test_an_unknown_tracker_is_refused() -> None:
    with (
        unchecked(),
        pytest.raises(
            UserError, match="track must be one of tensorboard, wandb, mlflow, none; got 'comet'; tensorboard"
        ),
    ):
        check_tracker("comet")  # type: ignore[arg-type]


@needs_wandb
@pytest.mark.filterwarnings("ignore")
def test_wandb_without_a_login_is_refused_and_offline_it_needs_none(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_tracker("wandb")
    wandb = SimpleNamespace(Error=OSError, login=lambda prompt: False)
    wandb.setup = lambda: SimpleNamespace(settings=SimpleNamespace(mode="online"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with pytest.raises(
        UserError, match=r"track=wandb needs a login \(wandb login\), or WANDB_MODE=offline; there is none"
    ):
        check_tracker("wandb")

    def unreachable(prompt: bool) -> bool:
        raise OSError("no\nnetwork")

    wandb.login = unreachable
    with pytest.raises(UserError, match="WANDB_MODE=offline; no network"):
        check_tracker("wandb")


@needs_mlflow
@pytest.mark.filterwarnings("ignore")
def test_a_store_of_mlflow_that_does_not_open_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://store")
    with pytest.raises(UserError, match=r"track=mlflow needs a store that opens \(MLFLOW_TRACKING_URI\); .*nowhere"):
        check_tracker("mlflow")


def test_nested_settings_become_one_level() -> None:
    assert flat({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}
