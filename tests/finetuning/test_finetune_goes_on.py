"""A run that was stopped goes on and repeats nothing; what is another run, or would replace one, is refused."""

from pathlib import Path
from typing import Any

import pytest
from finetuning.small import BUDGET
from small_runs import results

import rl_det
from rl_det.data.splits import Splits
from rl_det.detectors import Detector, encodings_on_disk
from rl_det.detectors.encodings import EncodedDataset
from rl_det.finetuning.plan import Plan
from rl_det.storage.checkpoint import read_checkpoint, write_checkpoint
from rl_det.strategies import hand_set, pretest

pytestmark = pytest.mark.usefixtures("without_pages")


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
        unfinished = tmp_path / "broken" / "checkpoints" / "ppo.unfinished.pt"
        write_checkpoint(unfinished, read_checkpoint(unfinished) | {"seconds": 1000.0})
        resumed = tuned("broken", resume=True)
    assert 1000.0 < resumed.rows["ppo"].seconds < 1000.0 + 60.0
    assert resumed.folder == tmp_path / "broken"
    assert results(tmp_path / "broken")["methods"] == results(tmp_path / "whole")["methods"]
    assert not (tmp_path / "broken" / "encodings").exists()
    monkeypatch.delattr(EncodedDataset, "in_memory")  # what is in memory alone is not there twice
    with pytest.raises(OSError, match="the power is gone"):
        tuned("no room", callbacks=[Break()], cache_disk=0.0)
    assert not (tmp_path / "no room" / "encodings").exists()


def test_an_exported_detector_under_the_name_of_a_row_is_not_written_over(
    data: Splits, detector: Detector, tmp_path: Path
) -> None:
    own = tmp_path / "models" / "supervised_fitted" / "model.json"
    own.parent.mkdir(parents=True)
    own.write_text("the user's own")
    with pytest.raises(ValueError, match="models: holds supervised_fitted/, which a run would write over"):
        rl_det.finetune(detector, data, rl_det.Supervised(), budget=BUDGET, out=tmp_path / "models")
    assert own.read_text() == "the user's own"


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
