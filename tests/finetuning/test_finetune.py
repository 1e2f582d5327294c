"""`finetune`: a row for each strategy, the detector as it was, the best by validation, and what is told of each ending."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning.small import BUDGET, own_model, pairs, same_state
from small_runs import results

import rl_det
from rl_det.ap.padding import pad_targets
from rl_det.data.splits import Splits
from rl_det.detectors import Detector, encodings_on_disk
from rl_det.detectors.encodings import EncodedDataset, encode_dataset, encode_in_the_loop
from rl_det.detectors.frozen import FrozenPart
from rl_det.errors import UserError
from rl_det.finetuning.plan import Plan
from rl_det.finetuning.results import read_detections
from rl_det.metrics.operating_point import f1_by_class_thresholds, operating_point
from rl_det.metrics.outcomes import outcomes
from rl_det.policies.detections import candidates_ap, candidates_of
from rl_det.strategies import hand_set, pretest

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.fixture(scope="module")
def data() -> Splits:
    return rl_det.open_data(pairs(), classes=["low", "high"])


@pytest.fixture
def detector(data: Splits) -> Detector:
    return rl_det.load_detector(own_model(), data)


def test_several_strategies_in_one_call_give_a_row_each_and_leave_the_detector_as_it_is(
    data: Splits, detector: Detector, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in detector.plain().state_dict().items()}
    result = rl_det.finetune(
        detector,
        data,
        rl_det.Reinforce(policy="rescore", samples_per_image=2),
        rl_det.Surrogate("ap", name="ap", policy="rescore"),
        rl_det.Supervised(),
        budget=BUDGET,
        out=tmp_path / "run",
    )
    assert list(result.rows) == ["warm_start", "continued_supervised", "reinforce", "ap", "supervised"]
    assert same_state(detector.plain().state_dict(), before)
    assert result.control == "continued_supervised"
    assert result.facts["budget"]["num_updates"] == 2


def test_what_opening_did_with_the_data_is_in_the_results(data: Splits, detector: Detector, tmp_path: Path) -> None:
    divided = replace(data, notes=("there is no test split",))
    strategy = rl_det.HandSetVotes(name="votes")
    told = rl_det.finetune(detector, divided, strategy, budget=BUDGET, out=tmp_path / "run", baselines=False).to_json()
    assert told["data_notes"] == ["there is no test split"]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["data_notes"] == told["data_notes"]


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


def test_the_frozen_parts_precision_is_of_training_images_alone_and_belongs_to_the_run(
    data: Splits, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[torch.dtype, int]] = []
    encode = type(detector).encode

    def watched(self: Detector, images: Any, num_proposals: int | None = None) -> Any:
        layer = next(module for module in self.backbone.modules() if isinstance(module, torch.nn.Conv2d))
        with layer.register_forward_hook(lambda _, __, output: ran.append((output.dtype, len(images)))):
            return encode(self, images, num_proposals)

    def tuned(folder: str, precision: Any, *, resume: bool = False) -> rl_det.Results:
        labels = rl_det.Labels(name="labels")
        run = {"budget": BUDGET, "baselines": False, "resume": resume, "out": tmp_path / folder}
        return rl_det.finetune(detector, data, labels, precision=precision, **run)

    monkeypatch.setattr(type(detector), "encode", watched)
    tuned("plain", "auto")
    assert {dtype for dtype, _ in ran} == {torch.float32}
    ran.clear()
    tuned("mixed", "mixed")
    halves = [number for dtype, number in ran if dtype == torch.bfloat16]
    assert sum(halves[2:]) == len(data.train)  # the first two measure the seconds
    assert (torch.float32, len(data.val)) in ran
    with pytest.raises(UserError, match="precision"):
        tuned("mixed", "float32", resume=True)
    with pytest.raises(UserError, match="here all of the detector is trained"):
        rl_det.finetune(detector, data, rl_det.Supervised(), compile=True, out=tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(FrozenPart, "told", lambda *_: {})
        with pytest.raises(UserError, match="this one is TorchScript"):
            rl_det.finetune(detector, data, rl_det.Labels(), precision="mixed", out=tmp_path / "whole")
    whole = rl_det.load_detector(own_model(), data, trainable="all")
    with pytest.raises(UserError, match="here all of the detector is trained"):
        rl_det.finetune(whole, data, rl_det.Labels(), precision="mixed", out=tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


class Break(rl_det.Callback):
    """Breaks a run off after its first update."""

    def on_step(self, run: Any, metrics: dict[str, float]) -> None:
        if run.update == 1:
            raise OSError("the power is gone")


def test_a_run_that_was_broken_off_repeats_nothing_and_clears_its_encodings_away_at_its_end(
    data: Splits, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned(folder: str, **more: Any) -> rl_det.Results:
        ppo = rl_det.PPO(samples_per_image=2, num_candidates=8)
        return rl_det.finetune(detector, data, ppo, budget=BUDGET, baselines=False, out=tmp_path / folder, **more)

    tuned("whole")
    with pytest.raises(OSError, match="the power is gone"):
        tuned("broken", callbacks=[Break()])
    assert {file.name for file in (tmp_path / "broken" / "encodings").iterdir()} == {"train", "val"}
    with monkeypatch.context() as patched:
        patched.delattr(encodings_on_disk, "write")
        for room, done in ((Plan, "check_images"), (hand_set, "set_best_votes"), (pretest, "best_of_samples")):
            patched.delattr(room, done)
        resumed = tuned("broken", resume=True)
    assert resumed.folder == tmp_path / "broken"
    assert results(tmp_path / "broken")["methods"] == results(tmp_path / "whole")["methods"]
    assert not (tmp_path / "broken" / "encodings").exists()
    monkeypatch.delattr(EncodedDataset, "in_memory")  # what is in memory alone is not there twice
    with pytest.raises(OSError, match="the power is gone"):
        tuned("no room", callbacks=[Break()], cache_disk=0.0)
    assert not (tmp_path / "no room" / "encodings").exists()


def test_labels_are_the_control_itself(data: Splits, detector: Detector, tmp_path: Path) -> None:
    result = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    assert list(result.rows) == ["warm_start", "continued_supervised"]
    other = rl_det.finetune(detector, data, rl_det.HandSetVotes(), rl_det.Labels(), budget=BUDGET, out=tmp_path / "two")
    rows = ["warm_start", "warm_start_voted", "continued_supervised_voted", "voting_untrained", "continued_supervised"]
    assert sorted(other.rows) == sorted(rows)
    assert other.methods["continued_supervised"]["AP"] == result.methods["continued_supervised"]["AP"]


def test_supervised_alone_is_compared_with_the_warm_start_and_the_table_says_so(
    data: Splits, detector: Detector, tmp_path: Path
) -> None:
    result = rl_det.finetune(detector, data, rl_det.Supervised(), budget=BUDGET, out=tmp_path / "run")
    assert list(result.rows) == ["warm_start", "supervised"]
    assert "AP over warm_start" in result.table()


def test_a_row_whose_whole_detector_was_trained_is_judged_by_its_own_encodings(
    data: Splits, detector: Detector, tmp_path: Path
) -> None:
    strategy = rl_det.Supervised(validate_start=False, ema=0.0, learning_rate=1e-2)
    row = rl_det.finetune(detector, data, strategy, budget=BUDGET, out=tmp_path / "run").rows["supervised"]
    assert row.tuned is not None
    policy, count = row.tuned.policy, BUDGET.validated_candidates
    by_itself = encode_in_the_loop(data.val)
    own = candidates_of(policy, by_itself, count)
    of_warm_start = candidates_of(policy, encode_dataset(detector, data.val), count)
    assert not torch.allclose(own.logits, of_warm_start.logits, atol=0.01)
    expected = candidates_ap(own, policy.postprocessing, by_itself.targets, num_classes=policy.detector.num_classes)
    assert row.validation_ap == pytest.approx(expected, abs=1e-9)


def test_the_control_is_there_whichever_strategy_comes_first(data: Splits, detector: Detector, tmp_path: Path) -> None:
    strategies = rl_det.Supervised(), rl_det.Surrogate("ap", policy="rescore")
    result = rl_det.finetune(detector, data, *strategies, budget=BUDGET, out=tmp_path / "run")
    assert list(result.rows) == ["warm_start", "continued_supervised", "supervised", "surrogate"]


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
        "seed must not be negative; got -1; 0 is usual",
    ]
    assert not list(tmp_path.iterdir())


def test_the_best_goes_by_validation_and_not_by_test(data: Splits, detector: Detector, tmp_path: Path) -> None:
    result = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    first, second = result.rows.values()
    rows = {
        "a": replace(first, name="a", validation_ap=0.2, figures={**first.figures, "AP": 0.9}),
        "b": replace(second, name="b", validation_ap=0.3, figures={**second.figures, "AP": 0.1}),
        "c": replace(second, name="c", validation_ap=float("nan")),
    }
    assert replace(result, rows=rows).best.name == "b"


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


def test_a_run_that_collapses_says_so_under_the_table(tmp_path: Path) -> None:
    digits = rl_det.digit_scenes(4, 4, 4)
    wild = rl_det.PPO(policy="rescore", learning_rate=0.3, samples_per_image=2)
    result = rl_det.finetune(
        rl_det.load_detector("tiny", digits), digits, wild, budget=BUDGET, out=tmp_path / "run", baselines=False
    )
    assert "ppo ended after 1 update: collapse (AP x 100 fell from " in result.table()


def test_a_folder_that_holds_a_run_is_refused_unless_it_goes_on_or_is_replaced(
    data: Splits, detector: Detector, tmp_path: Path
) -> None:
    def run(strategy: Any, **keywords: bool) -> rl_det.Results:
        return rl_det.finetune(
            detector, data, strategy, budget=BUDGET, out=tmp_path / "run", baselines=False, **keywords
        )

    first = run(rl_det.Surrogate("ap"))
    with pytest.raises(ValueError, match=f"{tmp_path / 'run'}: holds a run already; resume .* overwrite .* another"):
        run(rl_det.Surrogate("ap"))
    with pytest.raises(ValueError, match="what goes on must be what was stopped; strategies was"):
        run(rl_det.Surrogate("smooth_ap"), resume=True)
    with pytest.raises(ValueError, match="give one of the two"):
        run(rl_det.Surrogate("ap"), resume=True, overwrite=True)
    assert run(rl_det.Surrogate("ap"), resume=True).table().splitlines()[4] == first.table().splitlines()[4]
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run(rl_det.HandSetVotes(), overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run" / "surrogate").exists()


def half(detections: Any, target: Any) -> float:
    return 0.5 * len(detections["boxes"])


def whole(detections: Any, target: Any) -> float:
    return 1.0 * len(detections["boxes"])


def test_a_run_paid_by_one_function_does_not_go_on_with_another(
    data: Splits, detector: Detector, tmp_path: Path
) -> None:
    def run(reward: Any, **keywords: bool) -> rl_det.Results:
        paid = rl_det.PPO(policy="rescore", reward=reward, samples_per_image=2, num_updates=1)
        return rl_det.finetune(detector, data, paid, budget=BUDGET, out=tmp_path / "run", baselines=False, **keywords)

    first = run(half)
    with pytest.raises(
        ValueError, match=r"what goes on must be what was stopped; strategies was .*half.* and is .*whole"
    ):
        run(whole, resume=True)
    assert run(half, resume=True).table() == first.table()


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_written(
    data: Splits, detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"track=mlflow needs .*pip install 'rl_det\[mlflow\]'"):
        rl_det.finetune(detector, data, budget=BUDGET, out=tmp_path / "run", track="mlflow")
    assert not list(tmp_path.iterdir())
