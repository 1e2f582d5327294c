"""A run's folder: whole files or none, metrics there at once, and one clear error where it cannot be entered."""

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rl_det.storage.cache import cache_folder, fingerprint
from rl_det.storage.checkpoint import check_same
from rl_det.storage.files import check_writable, write_whole, write_with
from rl_det.storage.run import Run, read_config, remove_run


def test_a_run_keeps_its_configuration_metrics_checkpoints_and_results(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {"budget": "smoke", "data": tmp_path}, {"torch": "2.8"}) as run:
        run.log(1, "ppo", {"loss": 0.5, "val_AP": math.nan})
        lines = (run.folder / "metrics.jsonl").read_text().splitlines()  # there before the run ends
        assert run.checkpoints.is_dir()
        run.write_results({"methods": {"ppo": {"AP": math.nan}}})
    assert [json.loads(line) for line in lines] == [{"stage": "ppo", "step": 1, "loss": 0.5, "val_AP": None}]
    config = json.loads((run.folder / "config.json").read_text())
    assert list(config) == ["rl_det", "run", "circumstances", "checksum"]
    assert config["run"] == {"budget": "smoke", "data": str(tmp_path)}
    assert config["circumstances"] == {"torch": "2.8"}
    assert read_config(run.folder)["run"] == config["run"]
    results = json.loads((run.folder / "results.json").read_text())
    assert results["methods"] == {"ppo": {"AP": None}}
    assert list(results["checksums"]) == ["config.json", "metrics.jsonl"]


def test_a_folder_with_a_run_is_entered_to_go_on_with_the_same_run_or_to_replace_it(tmp_path: Path) -> None:
    with Run(tmp_path, {"seed": 0}, {"host": "one"}) as run:
        run.log(1, "ppo", {"loss": 0.5})
        (run.checkpoints / "ppo.pt").write_text("state")
        (tmp_path / "ppo").mkdir()
        (tmp_path / "ppo" / "model.json").write_text("{}")
        run.write_results({})
    (tmp_path / "notes.txt").write_text("the user's own")
    with pytest.raises(ValueError, match=r"holds a run already; resume .*overwrite .*another folder"):
        Run(tmp_path, {"seed": 0})
    with pytest.raises(ValueError, match=r"config\.json: .*seed was 0 and is 1"):
        Run(tmp_path, {"seed": 1}, resume=True)
    with Run(tmp_path, {"seed": 0}, {"host": "another"}, resume=True):
        assert json.loads((tmp_path / "config.json").read_text())["circumstances"] == {"host": "one"}
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
        assert (tmp_path / "checkpoints" / "ppo.pt").exists()
    with Run(tmp_path, {"seed": 1}, overwrite=True):
        assert read_config(tmp_path)["run"] == {"seed": 1}
        assert (tmp_path / "metrics.jsonl").read_text() == ""
        assert not any((tmp_path / "checkpoints").iterdir())
        assert not (tmp_path / "results.json").exists()
        assert not (tmp_path / "ppo").exists()
        assert (tmp_path / "notes.txt").read_text() == "the user's own"


def test_a_run_that_fails_before_it_has_begun_removes_only_what_it_made(tmp_path: Path) -> None:
    own = [tmp_path / name for name in ("better/model.json", "better/notes.txt", "notes.md")]
    for file in own:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    with pytest.raises(OSError, match="broken"), Run(tmp_path, {"seed": 0}):
        raise OSError("a broken image")
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == set(own)
    with pytest.raises(OSError, match="broken"), Run(tmp_path / "new", {"seed": 0}):
        raise OSError("a broken image")
    assert not (tmp_path / "new").exists()


def test_a_detector_that_a_user_exported_into_a_run_outlives_it(tmp_path: Path) -> None:
    with Run(tmp_path, {"seed": 0}) as run:
        for name in ("ppo", "ppo_fitted", "better"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "model.json").write_text("{}")
        (run.checkpoints / "ppo.pt").write_text("state")
        run.write_results({"methods": {"ppo_fitted": {"AP": 0.5}}})
    remove_run(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["better"]


@pytest.mark.parametrize(
    "name", ["report.html", "metrics.jsonl", "checkpoints/ppo.pt", "encodings/train/0.npz", "tensorboard/x"]
)
@pytest.mark.parametrize("flag", ["resume", "overwrite", None])
def test_what_others_have_written_under_a_runs_names_is_not_written_over(
    tmp_path: Path, name: str, flag: str | None
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("the user's own")
    with pytest.raises(ValueError, match=rf"holds {name.split('/')[0]}.*, which a run would write over"):
        Run(tmp_path, {}, **({} if flag is None else {flag: True}))
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "the user's own"


def test_a_resumed_run_in_an_empty_folder_begins(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {"seed": 0}, resume=True):
        assert read_config(tmp_path / "run")["run"] == {"seed": 0}


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
def test_a_run_is_open_in_one_program_at_a_time(tmp_path: Path, flag: str) -> None:
    with Run(tmp_path / "run", {"seed": 0}) as run:
        with pytest.raises(ValueError, match=r"run: one run at a time must work in a folder; another works there now"):
            Run(tmp_path / "run", {"seed": 0}, **{flag: True})
        with Run(tmp_path / "another", {"seed": 0}):
            run.log(1, "ppo", {"loss": 0.5})
        run.write_results({})
    with Run(tmp_path / "run", {"seed": 0}, **{flag: True}):
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == (flag == "resume")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": 3}'])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: .*--overwrite begins anew"):
        Run(tmp_path, {"seed": 0}, resume=True)
    with Run(tmp_path, {"seed": 0}, overwrite=True):
        assert read_config(tmp_path)["run"] == {"seed": 0}


@pytest.mark.parametrize("make", [check_writable, lambda folder: Run(folder, {})])
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


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_written_file_has_the_permissions_of_any_other(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "results.json", "{}")
        write_with(tmp_path / "state.safetensors", lambda file: save_file({"weight": torch.ones(2)}, file))
        write_with(tmp_path / "state.pt", lambda file: torch.save({"weight": torch.ones(2)}, file))
    finally:
        os.umask(before)
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~umask}


def test_a_stage_that_goes_on_drops_its_lines_beyond_its_step_and_one_that_was_cut_off(tmp_path: Path) -> None:
    with Run(tmp_path, {}) as run:
        for step in (1, 2, 3):
            run.log(step, "supervised", {"loss": 0.5 / step})
        run.log(4, "ppo", {"loss": 0.2})
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"stage": "supervised", "st')  # cut off by a crash
    with Run(tmp_path, {}, resume=True) as run:
        run.drop_metrics_after(["supervised"], 2, pytest.fail)
        run.log(3, "supervised", {"loss": 0.1})
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [(line["stage"], line["step"], line["loss"]) for line in lines] == [
        ("supervised", 1, 0.5), ("supervised", 2, 0.25), ("ppo", 4, 0.2), ("supervised", 3, 0.1),
    ]  # fmt: skip


def test_a_list_is_a_curve(tmp_path: Path) -> None:
    with Run(tmp_path, {}) as run:
        run.log(1, "test", {"precision": [1.0, 0.5, math.nan]})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"stage": "test", "step": 1, "precision": [1.0, 0.5, None]}


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
