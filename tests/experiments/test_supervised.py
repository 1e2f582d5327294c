"""Supervised training as its script runs it: what it writes, that a killed run goes on to the same end, what it refuses."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, Refusals, files, lines, results, small_data, tiny

import rl_det
from rl_det.data.augment import Augmentations
from rl_det.data.digit_scenes import CLASSES
from rl_det.detectors import build_detector

NUM_STEPS = 6
SUPERVISED = rl_det.Supervised(num_steps=NUM_STEPS, batch_size=4, num_workers=0, validate_every=2, patience=9)
STRONG = rl_det.Supervised(
    num_steps=NUM_STEPS, batch_size=4, num_workers=0, validate_every=2, augmentations=Augmentations(photometric=True)
)
TESTS = Path(__file__).parents[1]

KILLED = """
import os, pathlib, signal, sys

from test_supervised import STRONG, run

import rl_det

class Kill(rl_det.training.loop.Callback):
    def on_step(self, run, metrics):
        if run.update == 5:
            os.kill(os.getpid(), signal.SIGKILL)

run(pathlib.Path(sys.argv[1]), STRONG, callbacks=[Kill()])
"""


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refusals:
    return Refusals("supervised.py", capsys, monkeypatch)


def run(out: Path, strategy: rl_det.Supervised = SUPERVISED, **options: Any) -> dict[str, Any]:
    data = small_data()
    rl_det.finetune(tiny(data), data, strategy, budget=SMALL, out=out, **{"baselines": False} | options)
    return results(out)


def test_a_run_leaves_its_whole_folder_and_says_what_training_gave(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    strategy = rl_det.Supervised(num_steps=NUM_STEPS, batch_size=4, num_workers=0, validate_every=2, monitor="AP50")
    told = run(folder, strategy, baselines=True)
    assert list(told["methods"]) == list(told["class_AP"]) == list(told["seconds"]) == ["warm_start", "supervised"]
    for name, figures in told["methods"].items():
        assert {"AP", "AP50", "AP75", "F1", "calibration_error", "calibration_error_before"} <= set(figures)
        by_class = [ap for ap in told["class_AP"][name].values() if ap is not None]
        assert sum(by_class) / len(by_class) == pytest.approx(figures["AP"], abs=1e-12)
    assert told["methods"]["warm_start"]["AP"] > 0.3
    written = files(folder)
    assert {"config.json", "checkpoints/supervised.pt", "supervised/detector.pt"} <= written
    assert {"test_detections/warm_start.png", "test_detections/supervised.png"} <= written
    assert any(file.startswith("tensorboard/") for file in written)
    assert [line["step"] for line in lines(folder, "supervised")] == list(range(NUM_STEPS + 1))
    validated = [line["val_AP50"] for line in lines(folder, "supervised") if "val_AP50" in line]
    assert len(validated) == 4  # the warm start's among them
    assert told["endings"]["supervised"]["best"] == max(validated)
    build_detector("tiny", num_classes=len(CLASSES), weights=folder / "supervised" / "detector.pt")


def test_killed_in_the_middle_and_resumed_it_ends_as_if_it_had_never_been_stopped(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(TESTS), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [line["step"] for line in lines(tmp_path / "killed")] == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / "killed" / "results.json").exists()
    resumed = run(tmp_path / "killed", STRONG, resume=True)
    whole = run(tmp_path / "whole", STRONG)
    for part in ("methods", "class_AP", "endings"):
        assert resumed[part] == whole[part]
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    states = [torch.load(tmp_path / name / "supervised" / "detector.pt") for name in ("killed", "whole")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_resumed_after_its_end_it_trains_no_more_and_overwritten_it_begins_again(tmp_path: Path) -> None:
    first = run(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "supervised.pt"
    written = checkpoint.stat().st_mtime_ns
    assert run(tmp_path / "run", resume=True)["methods"] == first["methods"]
    assert checkpoint.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="holds a run already"):
        run(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ValueError, match=r"config.json: .*seed was 0 and is 3"):
        run(tmp_path / "run", resume=True, seed=3)
    with pytest.raises(ValueError, match=r"config.json: .*ema.*0\.99.*0\.5"):
        run(tmp_path / "run", rl_det.Supervised(**{**vars(SUPERVISED), "ema": 0.5}), resume=True)
    assert (tmp_path / "run" / "config.json").read_text() == before
    assert run(tmp_path / "run", overwrite=True)["methods"] == first["methods"]
    assert checkpoint.stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [("monitor", "mAP", "AP, AP50"), ("patience", 0, "patience must"), ("learning_rate", 0.0, "learning_rate must")],
)
def test_a_setting_that_is_no_good_is_refused(flag: str, value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rl_det.Supervised(**{flag: value})


def test_a_mistake_costs_the_script_one_line_and_nothing_else(tmp_path: Path, refused: Refusals) -> None:
    assert "nowhere" in refused("--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_small_data_set_is_not_gone_through_for_ever(tmp_path: Path) -> None:
    data, budget = small_data(), rl_det.Budget()
    from rl_det.finetuning.budget import recipe_for
    from rl_det.finetuning.plan import plan_run

    job = plan_run(tiny(data), data, [SUPERVISED], budget, recipe_for(data), 0, baselines=False, out=tmp_path)
    usual = job.task().from_labels
    assert usual.num_steps * usual.batch_size >= len(data.train) * budget.supervised_passes
    assert (usual.num_steps - 1) * usual.batch_size < len(data.train) * budget.supervised_passes
