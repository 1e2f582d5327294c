"""`finetune`: a row for each strategy, the detector as it was, the best by validation, and what is told of each ending."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning.small import BUDGET, own_model, same_state

import rl_det
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.detectors.encodings import encode_dataset, encode_in_the_loop
from rl_det.detectors.frozen import FrozenPart
from rl_det.errors import UserError
from rl_det.finetuning.results import read_detections
from rl_det.policies.detections import candidates_ap, candidates_of
from rl_det.strategies.catalogue import CATALOGUE
from rl_det.strategies.hand_set import VOTED, WARM_START
from rl_det.strategies.labels import CONTROL

pytestmark = pytest.mark.usefixtures("without_pages")


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


def test_labels_are_the_control_itself(data: Splits, detector: Detector, tmp_path: Path) -> None:
    result = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    assert list(result.rows) == ["warm_start", "continued_supervised"]
    other = rl_det.finetune(detector, data, rl_det.HandSetVotes(), rl_det.Labels(), budget=BUDGET, out=tmp_path / "two")
    rows = ["warm_start", "warm_start_voted", "continued_supervised_voted", "voting_untrained", "continued_supervised"]
    assert sorted(other.rows) == sorted(rows)
    assert other.methods["continued_supervised"]["AP"] == result.methods["continued_supervised"]["AP"]


def test_a_run_and_a_comparison_mean_the_same_by_a_voted_row(data: Splits, detector: Detector, tmp_path: Path) -> None:
    run = rl_det.finetune(detector, data, rl_det.HandSetVotes(), budget=BUDGET, out=tmp_path / "run")
    for name in (WARM_START + VOTED, CONTROL + VOTED):
        alone = tmp_path / name
        rl_det.finetune(detector, data, CATALOGUE[name], budget=BUDGET, out=alone, baselines=False)
        assert checksum(alone, name) == checksum(run.folder, name)
    assert checksum(run.folder, CONTROL + VOTED) not in (
        checksum(run.folder, WARM_START + VOTED),
        checksum(run.folder, CONTROL),
    )


def checksum(folder: Path, name: str) -> str:
    """The row's detections of the test images, as bytes' hash."""
    return sha256(b"".join(part.tobytes() for part in vars(read_detections(folder, name)).values())).hexdigest()


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


def test_the_best_goes_by_validation_and_not_by_test(data: Splits, detector: Detector, tmp_path: Path) -> None:
    result = rl_det.finetune(detector, data, rl_det.Labels(), budget=BUDGET, out=tmp_path / "run")
    first, second = result.rows.values()
    rows = {
        "a": replace(first, name="a", validation_ap=0.2, figures={**first.figures, "AP": 0.9}),
        "b": replace(second, name="b", validation_ap=0.3, figures={**second.figures, "AP": 0.1}),
        "c": replace(second, name="c", validation_ap=float("nan")),
    }
    assert replace(result, rows=rows).best.name == "b"
