"""The comparison: separate processes, one JSON, one table, one picture; and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from comparing import CONTROL, QUICK, SCENES, compared
from PIL import Image
from small_runs import SMALL, Refusals, results, small_data, tiny

import rl_det
from rl_det.errors import UserError
from rl_det.finetuning.budget import recipe_for
from rl_det.finetuning.job import Cell, JobFile, strategy_of
from rl_det.finetuning.plan import plan_run
from rl_det.finetuning.processes import Processes, check_ended
from rl_det.finetuning.request import Request

pytestmark = pytest.mark.usefixtures("few_scenes")


def test_a_job_reads_what_it_was_told(tmp_path: Path) -> None:
    request = Request(data=tmp_path / "data", test_data=tmp_path / "test", max_aspect=3.5, budget="smoke", device="cpu")
    job = JobFile(
        request=request, budget=rl_det.Budget(num_updates=3), strategy="ppo_voting", reward="pool_ap", seed=1,
        encodings=tmp_path / "encodings", out=tmp_path / "out", fold=2, num_folds=5,
    )  # fmt: skip
    job.write(tmp_path / "job.json")
    assert JobFile.read(tmp_path / "job.json") == job


def test_it_writes_one_json_one_table_one_picture_and_one_page(out: Path) -> None:
    told = json.loads((out / "comparison.json").read_text())
    assert list(told["methods"]) == list(QUICK)
    for method in told["methods"].values():
        assert method["AP"]["low"] <= method["AP"]["value"] <= method["AP"]["high"]
        assert len(method["figures"]) == len(method["seconds"]) == 1
        assert 0 < method["figures"][0]["F1"] < 1
        assert method["AP"]["value"] == pytest.approx(method["figures"][0]["AP"], abs=1e-6)
    assert told["methods"][CONTROL]["over_control"] == {"value": 0, "low": 0, "high": 0}
    table = (out / "comparison.md").read_text()
    assert all(name in table for name in QUICK)
    with Image.open(out / "comparison.png") as picture:
        assert picture.size[0] > 500
    page = (out / "report.html").read_text().replace("<wbr>", "")
    assert all(f'<th scope="row"><bdi>{name}</bdi></th>' in page for name in QUICK)
    assert all(f"{100 * method['AP']['value']:.2f} (" in page for method in told["methods"].values())


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_strategy_has_a_second_row_with_fitted_post_processing_unless_it_is_post_processing_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCENES, "val", 16)  # as many as a fit needs
    out = tmp_path / "out"
    of_itself = "post_processing", *QUICK
    told = compared(out, strategies=of_itself, budget=replace(SMALL, fit_evaluations=22))["methods"]
    fitted = f"{CONTROL}_fitted"
    assert list(told) == [*of_itself, fitted]
    for method in told.values():
        over = method["AP"]["value"] - told[fitted]["AP"]["value"]
        assert method["over_fitted_control"]["value"] == pytest.approx(over, abs=1e-12)
    run = results(out / Cell(CONTROL, 0).folder)
    assert told[fitted]["AP"]["value"] == pytest.approx(run["methods"][fitted]["AP"], abs=1e-6)
    assert "| AP over fitted control |" in (out / "comparison.md").read_text()


def test_an_error_of_a_process_is_told(tmp_path: Path) -> None:
    wrong = JobFile(
        request=Request(budget="smoke", device="cpu", weights=str(tmp_path / "nowhere.pt")),
        budget=SMALL,
        strategy=CONTROL,
        reward="pool_ap",
        seed=0,
        encodings=tmp_path / "encodings",
        out=tmp_path / "out",
    )
    with pytest.raises(
        UserError, match=r"rl_det.finetuning.job .* ended with 2; .*nowhere.pt: must be a file of"
    ) as told:
        Processes(1).run(wrong)
    assert "\n" not in str(told.value)
    ours = replace(wrong, request=Request(budget="smoke", device="cpu"), strategy="nonsense")
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1\nTraceback .*KeyError: 'nonsense'"):
        Processes(1).run(ours)
    with pytest.raises(
        UserError, match=rf"^{wrong.out}: its process was killed \(SIGKILL\); the same command with --resume"
    ):
        check_ended(wrong, [], -9, "encodings: 96 images")


@pytest.mark.parametrize(
    "name",
    [
        "voting_smooth_ap",
        "reinforce_without_credit",
        "ppo_rescore_group",
        "ppo_voting_from_plain_votes",
        "ppo_voting_and_smooth_ap",
    ],
)
def test_a_strategy_that_trains_runs(name: str, tmp_path: Path) -> None:
    data, strategy = small_data(), strategy_of(name, "pool_ap")
    job = plan_run(tiny(data), data, [strategy], SMALL, recipe_for(data), 0, baselines=False, out=tmp_path)
    policy, task = strategy.start(job.detector).copy(), job.task(name)
    assert strategy.tune(policy, task).reason in ("budget", "collapse")  # of validation, on these few images
    assert 0 < task.validation_ap(policy) < 1


def test_few_training_images_are_seen_in_several_views_and_by_all_strategies(tmp_path: Path) -> None:
    data = small_data()
    for max_views in (1, 6):
        budget = SMALL.__class__(**{**vars(SMALL), "max_views": max_views})
        wanted = [strategy_of(CONTROL, "pool_ap")]
        job = plan_run(tiny(data), data, wanted, budget, recipe_for(data), 0, baselines=False, out=tmp_path)
        assert len(job.images("train")) == 12 * max_views
        assert job.images("val") is data.val


def test_unknown_strategies_rewards_and_a_comparison_without_a_control_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Refusals("compare.py", capsys, monkeypatch)
    own = ("--budget", "smoke", "--device", "cpu", "--out", tmp_path / "out")
    assert "'magic'" in refused("--strategies", "magic", CONTROL, *own)
    assert f"must hold {CONTROL}" in refused("--strategies", "warm_start", *own)
    assert "pool_ap" in refused("--strategies", CONTROL, "--reward", "map", *own)
    assert not (tmp_path / "out").exists()
