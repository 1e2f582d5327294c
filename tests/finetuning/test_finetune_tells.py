"""What `finetune` tells: of mistakes, of endings, of a detector that finds nothing, and of the threshold that a user sets."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning.small import BUDGET, own_model
from small_runs import results

import rl_det
from rl_det.ap.padding import pad_targets
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.finetuning.results import read_detections
from rl_det.metrics.operating_point import f1_by_class_thresholds, operating_point
from rl_det.metrics.outcomes import outcomes

pytestmark = pytest.mark.usefixtures("without_pages")


def test_a_detector_that_comes_as_trained_and_finds_nothing_is_warned_of(
    data: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warning = "warning: the detector comes as trained, and finds next to nothing on validation (AP x 100: 0.00)"
    votes, blind = rl_det.HandSetVotes(name="votes"), own_model()
    rl_det.finetune(rl_det.load_detector(blind, data), data, votes, budget=BUDGET, out=tmp_path / "a", baselines=False)
    assert warning not in capsys.readouterr().err, "it finds a little"
    with torch.no_grad():
        blind.roi_heads.box_predictor.bbox_pred.bias.fill_(50.0)  # boxes far beyond the image
    detector = rl_det.load_detector(blind, data)
    rl_det.finetune(detector, data, votes, budget=BUDGET, out=tmp_path / "b", baselines=False)
    assert warning in capsys.readouterr().err
    detector.is_trained = False
    rl_det.finetune(detector, data, votes, budget=BUDGET, out=tmp_path / "c", baselines=False)
    assert warning not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("strategies", "told"),
    [
        ((rl_det.PPO(), rl_det.PPO()), "'ppo' is there twice; give one another `name`"),
        ((rl_det.PPO(name="warm_start"),), "'warm_start' is the row of a baseline; give the PPO another `name`"),
        ((rl_det.PPO(name="warm_start_voted"),), "'warm_start_voted' is the row of a baseline"),
        (
            (rl_det.Labels(learning_rate=1.0),),
            "'continued_supervised' is the row of a baseline; give the Labels another",
        ),
        ((rl_det.PPO(name="checkpoints"),), "a strategy's name must be .*none of tensorboard, checkpoints"),
        ((rl_det.PPO(name="ppo.former"), rl_det.PPO()), "'ppo.former' may be a file of the run; give the PPO another"),
        ((rl_det.PPO(name="results.json"),), "'results.json' may be a file of the run"),
        ((rl_det.PPO(name="a/b"),), "as it names a folder of the run; got 'a/b'"),
        ((rl_det.PPO(name=""),), "as it names a folder of the run; got ''"),
    ],
)
def test_names_that_could_not_be_told_apart_are_refused_and_nothing_is_written(
    data: Splits, detector: Detector, tmp_path: Path, strategies: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        rl_det.finetune(detector, data, *strategies, budget=BUDGET, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


MISTAKES = """
import rl_det
data = rl_det.digit_scenes(2, 2, 2)
detector = rl_det.load_detector("tiny", data)
def told(*arguments, **keywords):
    try:
        rl_det.finetune(*arguments, out="run", **keywords)
    except ValueError as error:
        print(error)
told(detector, data, "ppo")
told(detector, data, rl_det.PPO)
told(detector.plain(), data, rl_det.PPO())
told(detector, data, rl_det.PPO(), budget="tiny")
told(detector, "nowhere", rl_det.PPO())
told(detector, data, rl_det.PPO(), budget=3)
told(detector, data, rl_det.PPO(), seed=-1)
"""


def test_what_is_no_strategy_no_detector_or_no_budget_costs_one_sentence(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", MISTAKES], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert not ended.returncode, ended.stderr
    assert ended.stdout.splitlines() == [
        "a strategy must be an object, such as PPO() or Surrogate('smooth_ap'); got 'ppo'",
        "a strategy must be an object, such as PPO() or Surrogate('smooth_ap'); got PPO",
        "the detector must be what load_detector gives; got a FasterRCNN; load_detector(model, data) makes one of a model",
        "budget must be one of smoke, short, full, or a Budget; got 'tiny'",
        "nowhere: the folder: there is none of this name",
        "budget must be one of smoke, short, full, or a Budget; got 3",
        "seed must not be negative, and less than 2**32; got -1; 0 is usual",
    ]
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges_says_so_under_the_table(data: Splits, detector: Detector, tmp_path: Path) -> None:
    wild = rl_det.Surrogate("smooth_ap", policy="rescore", learning_rate=1e6)
    result = rl_det.finetune(detector, data, wild, budget=replace(BUDGET, num_updates=4), out=tmp_path / "run")
    ending = result.rows["surrogate"].ending
    assert ending.reason == "not finite"
    *_, why, skipped, kept = result.table().splitlines()
    assert skipped.startswith(f"surrogate: {ending.skipped} updates were skipped; first: ")
    assert why.startswith(f"surrogate ended after {ending.update} update")
    assert "not finite (the " in why
    assert kept == "surrogate is its own start: no later weights were better on validation"
    assert result.rows["surrogate"].class_ap == result.rows["warm_start"].class_ap, "the best weights were the first"
    assert rl_det.load_results(tmp_path / "run").table() == result.table()


def test_a_run_that_collapses_says_so_under_the_table(tmp_path: Path) -> None:
    digits = rl_det.digit_scenes(4, 4, 4)
    wild = rl_det.PPO(policy="rescore", learning_rate=0.3, samples_per_image=2)
    result = rl_det.finetune(
        rl_det.load_detector("tiny", digits), digits, wild, budget=BUDGET, out=tmp_path / "run", baselines=False
    )
    assert "ppo ended after 1 update: collapse (AP x 100 fell from " in result.table()


def test_the_tables_f1_is_that_of_validations_thresholds_and_a_user_finds_them(
    data: Splits, detector: Detector, tmp_path: Path
) -> None:
    result = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    row, told = result.rows["continued_supervised"], results(tmp_path / "run")
    assert row.tuned is not None
    truths = pad_targets([sample.target for sample in (data.test[k] for k in range(len(data.test)))])
    found = outcomes(read_detections(tmp_path / "run", row.name), truths, num_classes=len(data.classes))
    assert row.displayed.f1 == operating_point(found, row.displayed.threshold).f1 <= row.figures["F1"]
    assert row.displayed.f1_by_class_thresholds == f1_by_class_thresholds(found, row.displayed.class_thresholds)
    assert told["thresholds"]["continued_supervised"] == row.displayed.threshold
    assert told["class_thresholds"]["continued_supervised"] == list(row.displayed.class_thresholds)
    line = next(line for line in result.table().splitlines() if " continued_supervised " in line)
    assert [cell.strip() for cell in line.strip("│").split("│")][4:6] == [
        f"{100 * row.displayed.f1:.2f}", f"{100 * row.displayed.f1_by_class_thresholds:.2f}",
    ]  # fmt: skip


def test_results_of_before_there_were_thresholds_can_be_read(data: Splits, detector: Detector, tmp_path: Path) -> None:
    written = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    told = results(tmp_path / "run")
    new = ("thresholds", "class_thresholds", "F1_at_class_thresholds", "checksum", "checksums")
    old = {key: value for key, value in told.items() if key not in new}
    (tmp_path / "run" / "results.json").write_text(json.dumps(old))
    row = rl_det.load_results(tmp_path / "run").rows["warm_start"]
    assert row.displayed.f1 == written.rows["warm_start"].displayed.f1
    assert math.isnan(row.displayed.threshold)
    assert row.displayed.class_thresholds == ()


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_written(
    data: Splits, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"track=mlflow needs .*pip install 'rl_det\[mlflow\]'"):
        rl_det.finetune(detector, data, budget=BUDGET, out=tmp_path / "run", track="mlflow")
    assert not list(tmp_path.iterdir())
