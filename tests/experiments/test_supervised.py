"""The supervised experiment: what it writes, that a killed run goes on to the same end, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import supervised as script
import task
import torch

from rl_det.data.digit_scenes import CLASSES
from rl_det.detectors import build_detector
from rl_det.training import supervised

SCENES = {"train": 12, "val": 8, "test": 8}
NUM_STEPS = 6
BATCH_SIZE = 4

KILLED = f"""
import os, pathlib, signal, sys
import supervised as script
import task
from rl_det.storage.run import Run
from rl_det.training import supervised

def log(self, step, stage, metrics):
    write(self, step, stage, metrics)
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

write, Run.log = Run.log, log
task.NUM_SCENES["smoke"] = {SCENES}
script.NUM_STEPS["smoke"] = {NUM_STEPS}
task.DIGITS_WARM_START = supervised.Config(batch_size={BATCH_SIZE})
script.main(script.Arguments(budget="smoke", device="cpu", out=pathlib.Path(sys.argv[1]), augment="strong", patience=9))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The smoke budget made smaller still, and a cache of the test's own."""
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(task.NUM_SCENES, "smoke", SCENES)
    monkeypatch.setitem(script.NUM_STEPS, "smoke", NUM_STEPS)
    monkeypatch.setattr(task, "DIGITS_WARM_START", supervised.Config(batch_size=BATCH_SIZE))


def run(**arguments: Any) -> dict[str, Any]:
    script.main(script.Arguments(**{"budget": "smoke", "device": "cpu"} | arguments))
    results: dict[str, Any] = json.loads((arguments["out"] / "results.json").read_text())
    return results


def error_of(capsys: pytest.CaptureFixture[str], **arguments: Any) -> str:
    """The one line that the script ends with."""
    with pytest.raises(SystemExit) as ending, task.clear_errors():
        run(**arguments)
    assert ending.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_whole_folder_and_says_what_training_gave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    results = run(out=folder, monitor="AP50")
    assert list(results["methods"]) == list(results["class_AP"]) == list(results["seconds"])
    assert list(results["methods"]) == ["warm_start", "supervised"]
    for name, figures in results["methods"].items():
        assert {"AP", "AP50", "AP75", "F1", "calibration_error", "calibration_error_before"} <= set(figures)
        by_class = [ap for ap in results["class_AP"][name].values() if ap is not None]
        assert sum(by_class) / len(by_class) == pytest.approx(figures["AP"], abs=1e-12)
    assert results["methods"]["warm_start"]["AP"] > 0.3
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {"config.json", "checkpoints/training.pt", "checkpoints/supervised.pt", "supervised/detector.pt"} <= files
    assert {"warm_start_precision_recall.png", "supervised_precision_recall.png"} <= files
    assert any(file.startswith("tensorboard/") for file in files)
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in lines_of(folder):
        stages.setdefault(line["stage"], []).append(line)
    assert [line["step"] for line in stages["supervised"]] == list(range(NUM_STEPS + 1))
    validated = [line["val_AP50"] for line in stages["supervised"] if "val_AP50" in line]
    assert len(validated) == 4  # the warm start's among them
    assert results["best_validation"] == {"AP50": max(validated)}
    assert len(stages["supervised_test_precision"][0]["7"]) == 101
    build_detector("tiny", num_classes=len(CLASSES), weights=folder / "supervised" / "detector.pt")
    assert "supervised" in capsys.readouterr().out


def test_killed_in_the_middle_and_resumed_it_ends_as_if_it_had_never_been_stopped(tmp_path: Path) -> None:
    here = Path(script.__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *filter(None, sys.path)])}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [line["step"] for line in lines_of(tmp_path / "killed")] == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / "killed" / "results.json").exists()
    flags = {"augment": "strong", "patience": 9}
    resumed = run(out=tmp_path / "killed", resume=True, **flags)
    whole = run(out=tmp_path / "whole", **flags)
    for part in ("methods", "class_AP", "best_validation"):
        assert resumed[part] == whole[part]
    assert lines_of(tmp_path / "killed") == lines_of(tmp_path / "whole")
    states = [torch.load(tmp_path / name / "supervised" / "detector.pt") for name in ("killed", "whole")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_resumed_after_its_end_it_trains_no_more_and_without_the_flag_it_begins_again(tmp_path: Path) -> None:
    first = run(out=tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "training.pt"
    written = checkpoint.stat().st_mtime_ns
    assert run(out=tmp_path / "run", resume=True)["methods"] == first["methods"]
    assert checkpoint.stat().st_mtime_ns == written
    assert run(out=tmp_path / "run")["methods"] == first["methods"]
    assert checkpoint.stat().st_mtime_ns > written


def test_what_goes_on_has_the_flags_of_what_was_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(out=tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    line = error_of(capsys, out=tmp_path / "run", resume=True, seed=3)
    assert str(tmp_path / "run" / "config.json") in line
    assert "seed was 0 and is 3" in line
    assert "ema was 0.99 and is 0.5" in error_of(capsys, out=tmp_path / "run", resume=True, ema=0.5)
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_from_random_weights_there_is_no_warm_start_to_compare_with(tmp_path: Path) -> None:
    results = run(out=tmp_path / "run", weights="none", ema=0.0)
    assert list(results["methods"]) == ["supervised"]
    assert results["methods"]["supervised"]["AP"] < 0.1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [("monitor", "mAP", "AP, AP50"), ("patience", 0, "patience must"), ("learning_rate", 0.0, "learning_rate must")],
)
def test_a_flag_that_is_no_good_costs_one_line_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: Any, says: str
) -> None:
    assert says in error_of(capsys, out=tmp_path / "run", **{flag: value})
    assert not (tmp_path / "run").exists()


def test_a_small_data_set_is_not_gone_through_for_ever() -> None:
    config = script.training_config(script.Arguments(budget="full"), num_images=8)
    assert config.num_steps * BATCH_SIZE == 8 * script.MAX_PASSES
    assert script.training_config(script.Arguments(budget="full"), num_images=100_000).num_steps == 1000
