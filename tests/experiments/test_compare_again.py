"""A comparison that is run again: what has its results is left, other results are refused or replaced."""

from pathlib import Path
from typing import Any

import pytest
from comparing import CONTROL, QUICK, REQUEST, compared
from small_runs import SMALL, Refusals, started

from rl_det.errors import UserError
from rl_det.finetuning import comparison
from rl_det.finetuning.budget import recipe_for
from rl_det.finetuning.job import Cell, strategy_of
from rl_det.finetuning.plan import plan_run
from rl_det.storage.run import Run

pytestmark = pytest.mark.usefixtures("few_scenes", "jobs_in_this_process")


def test_what_has_its_results_is_not_run_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (out / Cell(CONTROL, 0).folder / "results.json").stat().st_mtime_ns
    names = started(monkeypatch)
    compared(out)
    assert names == []
    compared(out, strategies=(*QUICK, "warm_start"))
    assert names == ["warm_start-seed0"]
    assert (out / Cell(CONTROL, 0).folder / "results.json").stat().st_mtime_ns == kept


def test_a_second_comparison_in_a_folder_is_refused_at_once_while_the_first_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, refused = tmp_path / "out", Refusals("compare.py", capsys, monkeypatch)

    def open_meanwhile(self: comparison.Request) -> Any:
        assert refused("--out", out, "--budget", "smoke") == (
            f"error: {out}: one comparison at a time must work in a folder; another works there now; wait for its end, or take "
            "another folder (--out)"
        )
        raise UserError("the first ends")

    monkeypatch.setattr(comparison.Request, "open", open_meanwhile)
    for _ in range(2):  # the lock of a comparison that has ended is open
        with pytest.raises(UserError, match="the first ends"):
            compared(out)


def test_to_resume_and_to_overwrite_at_once_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Refusals("compare.py", capsys, monkeypatch)("--resume", "--overwrite", "--out", tmp_path / "out")
    assert line.endswith("got both; give one of the two")


def test_results_of_another_run_are_refused_by_what_differs_and_overwritten_if_asked_for(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (out / Cell(CONTROL, 0).folder / "results.json").read_text()
    other = SMALL.__class__(**{**vars(SMALL), "num_updates": 1})
    with pytest.raises(ValueError, match=r"config.json: .*budget was .*'num_updates': 2.* and is .*'num_updates': 1"):
        compared(out, budget=other)
    assert (out / Cell(CONTROL, 0).folder / "results.json").read_text() == before
    names = started(monkeypatch)
    compared(out, budget=other, strategies=(CONTROL,), overwrite=True)
    assert names == ["continued_supervised-seed0"]
    assert (out / Cell(CONTROL, 0).folder / "results.json").read_text() != before


def test_results_of_another_reward_are_refused_before_any_process_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, own = "ppo_rescore", tmp_path / "out" / Cell("ppo_rescore", 0).folder
    data, detector = REQUEST.open()
    wanted = [strategy_of(name, "pool_ap")]
    job = plan_run(detector, data, wanted, SMALL, recipe_for(data), 0, baselines=False, out=own)
    with Run(own, job.identity) as begun:
        begun.log(0, name, {"val_AP": 0.5})
    names = started(monkeypatch)
    with pytest.raises(ValueError, match=r"config.json: .*strategies was .*pool_ap.* and is .*image_ap"):
        compared(tmp_path / "out", strategies=(CONTROL, name), reward="image_ap")
    assert names == []
