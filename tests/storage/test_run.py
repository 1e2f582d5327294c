"""A run's folder: whole files or none, metrics there at once, and one clear error where it cannot be written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl_det.storage.cache import cache_folder, fingerprint
from rl_det.storage.checkpoint import check_same
from rl_det.storage.files import check_writable, write_whole, write_with
from rl_det.storage.run import Run


def test_a_run_keeps_its_configuration_metrics_checkpoints_and_results(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {"budget": "smoke", "out": tmp_path}, seed=3) as run:
        run.log(1, "ppo", {"loss": 0.5, "val_AP": math.nan})
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()  # there before the run ends
        checkpoint = run.save_checkpoint("ppo", {"weight": torch.ones(2)})
        run.write_results({"methods": {"ppo": {"AP": math.nan}}})
    assert [json.loads(line) for line in lines] == [{"stage": "ppo", "step": 1, "loss": 0.5, "val_AP": None}]
    assert json.loads((run.folder / "config.json").read_text()) == {"budget": "smoke", "out": str(tmp_path), "seed": 3}
    assert torch.equal(torch.load(checkpoint)["weight"], torch.ones(2))
    assert json.loads((run.folder / "results.json").read_text()) == {"methods": {"ppo": {"AP": None}}}
    assert any(file.name.startswith("events") for file in (run.folder / "tensorboard").iterdir())


@pytest.mark.parametrize("make", [check_writable, lambda folder: Run(folder, {}, 0)])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, make: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file/run"):
        make(tmp_path / "file" / "run")


def test_asking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "some" / "run")
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_whole(file, "before")

    def fills_the_disk(beside: Path) -> None:
        beside.write_text("half of")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"results.json: could not be written .*No space left"):
        write_with(file, fills_the_disk)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_a_run_that_goes_on_keeps_the_metrics_up_to_where_it_was_stopped(tmp_path: Path) -> None:
    with Run(tmp_path, {}, seed=0) as run:
        for step in (1, 2, 3):
            run.log(step, "supervised", {"loss": 0.5 / step})
        run.log(2, "test", {"AP": 0.1})
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"stage": "supervised", "st')  # cut off by a crash
    with Run(tmp_path, {}, seed=0, going_on={"supervised": 2}) as run:
        run.log(3, "supervised", {"loss": 0.1})
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [(line["stage"], line["step"], line["loss"]) for line in lines] == [
        ("supervised", 1, 0.5), ("supervised", 2, 0.25), ("supervised", 3, 0.1),
    ]  # fmt: skip
    with Run(tmp_path, {}, seed=0):
        assert metrics.read_text() == ""


def test_a_list_is_a_curve(tmp_path: Path) -> None:
    with Run(tmp_path, {}, seed=0) as run:
        run.log(1, "test", {"precision": [1.0, 0.5, math.nan]})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"stage": "test", "step": 1, "precision": [1.0, 0.5, None]}
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("test/precision")][:2] == [(0, 1.0), (1, 0.5)]


def test_what_differs_from_what_was_stopped_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    check_same(file, {"scale": [1.0, 2.0], "data": "x"}, {"scale": (1.0, 2.0), "data": Path("x")})
    with pytest.raises(ValueError, match=r"config\.json: .*rate was 0\.1 and is 0\.2"):
        check_same(file, {"rate": 0.1}, {"rate": 0.2})
    with pytest.raises(ValueError, match=r"rate was 0\.1 and is None"):
        check_same(file, {"rate": 0.1}, {})


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RL_DET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/rl_det")


def test_a_fingerprint_follows_the_configuration_and_not_its_order() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
