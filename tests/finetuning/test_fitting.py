"""Every row once more with fitted post-processing: exact after export, not flattered by its fit, the same after a kill."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.families import build
from contract.query_families import QUERY_FAMILIES
from finetuning.small import BUDGET, OfThree, Pairs, own_model
from finetuning.test_tuned import unpadded

import rl_det
from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.candidates.votes import Votes
from rl_det.data.splits import Splits
from rl_det.finetuning import fitting
from rl_det.finetuning.budget import recipe_for
from rl_det.finetuning.plan import plan_run
from rl_det.report.bootstrap import Interval
from rl_det.storage.checkpoint import read_checkpoint
from rl_det.strategies import postprocessing
from rl_det.strategies.postprocessing import FittedPostProcessing
from rl_det.types import Candidates

pytestmark = pytest.mark.usefixtures("without_pages")

FEW = replace(BUDGET, fit_evaluations=22)
STRATEGIES: tuple[Any, ...] = (
    rl_det.PPO(samples_per_image=2, collapse_margin=1.0),
    rl_det.PostProcessing(),
    rl_det.Supervised(validate_start=False, ema=0.0),
)
ALONE = ("warm_start", "continued_supervised", "ppo", "supervised")


def small_data(num_val: int = 18) -> Splits:
    return rl_det.digit_scenes(train=6, val=num_val, test=5)


def tuned(
    out: Path, *strategies: Any, budget: rl_det.Budget = FEW, resume: bool = False, num_val: int = 18
) -> rl_det.Results:
    data = small_data(num_val)
    detector = rl_det.load_detector("tiny", data, device="cpu")
    return rl_det.finetune(detector, data, *(strategies or STRATEGIES), budget=budget, out=out, resume=resume)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> rl_det.Results:
    return tuned(tmp_path_factory.mktemp("fitted") / "run")


def test_the_warm_start_the_control_and_every_strategy_have_a_fitted_row(results: rl_det.Results) -> None:
    voted = ["warm_start_voted", "continued_supervised_voted"]
    rows = ["warm_start", "continued_supervised", *voted, "ppo", "post_processing", "supervised"]
    assert list(results.rows) == [*rows, *(f"{name}_fitted" for name in ALONE)]
    assert any(results.methods[f"{name}_fitted"]["AP"] != results.methods[name]["AP"] for name in ALONE)
    assert "warm_start_fitted" in results.table()


def test_every_row_is_compared_with_the_fitted_control_too(results: rl_det.Results, tmp_path: Path) -> None:
    fitted = results.rows["continued_supervised_fitted"]
    for row in results.rows.values():
        assert row.over_fitted_control is not None
        assert row.over_fitted_control.value == pytest.approx(row.figures["AP"] - fitted.figures["AP"], abs=1e-9)
    assert fitted.over_fitted_control == Interval(value=0.0, low=0.0, high=0.0)
    assert "AP over fitted control" in results.table()
    for name, row in rl_det.load_results(results.folder).rows.items():
        assert row.over_fitted_control == results.rows[name].over_fitted_control


def test_other_rows_are_as_they_are_without_the_stage(results: rl_det.Results, tmp_path: Path) -> None:
    without = tuned(
        tmp_path / "run", rl_det.PPO(samples_per_image=2, collapse_margin=1.0), budget=replace(FEW, fit_evaluations=0)
    )
    assert not any(name.endswith("_fitted") for name in without.rows)
    for name, row in without.rows.items():
        assert str(row.figures) == str(results.rows[name].figures)  # NaN is not equal to itself
        assert row.validation_ap == results.rows[name].validation_ap


def test_a_fitted_rows_validation_ap_is_the_rows_own_and_the_gain_on_held_back_images(results: rl_det.Results) -> None:
    for name in ALONE:
        kept = read_checkpoint(results.folder / "checkpoints" / f"{name}_fitted.pt")
        row = results.rows[f"{name}_fitted"]
        assert row.validation_ap == pytest.approx(results.rows[name].validation_ap + kept["gain"])
        assert row.ending.detail == kept["told"]
    own = results.rows["post_processing"]
    assert own.validation_ap == own.ending.best


@pytest.mark.parametrize("name", ["post_processing", *(f"{name}_fitted" for name in ALONE)])
def test_the_exported_folder_detects_what_the_row_rests_on(results: rl_det.Results, name: str, tmp_path: Path) -> None:
    again = rl_det.load_tuned(results.rows[name].export(tmp_path / name))
    test = small_data().test
    found = again.detect(test[index].image for index in range(len(test)))
    for own, kept in zip(found, unpadded(results.folder, name), strict=True):
        for part in ("boxes", "labels", "scores"):
            assert np.array_equal(own[part].numpy(), kept[part].to(own[part].dtype).numpy())  # type: ignore[literal-required]


def test_a_fit_that_is_kept_is_recalibrated_at_its_end_and_the_policy_before_it_is_not(results: rl_det.Results) -> None:
    kept = {name: read_checkpoint(results.folder / "checkpoints" / f"{name}_fitted.pt") for name in ALONE}
    changed = [name for name in ALONE if kept[name]["gain"] > 0]
    assert changed
    for name in changed:
        fitted, rescaled = kept[name]["fitted"], kept[name]["rescaled"]
        alone = results.rows[name].tuned
        assert alone is not None
        assert tuple(fitted["scale"]) == alone.policy.postprocessing.scale, "what a softmax lacks, or nothing"
        assert rescaled["scale"] != fitted["scale"]
        assert len(rescaled["scale"]) == len(rescaled["shift"]) == 10
        row = results.rows[f"{name}_fitted"].tuned
        assert row is not None
        assert row.policy.postprocessing == PostProcessingSettings.of(rescaled)


def test_with_few_validation_images_there_are_no_fitted_rows_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tuned(tmp_path / "run", rl_det.PostProcessing(), num_val=9)
    assert not any(name.endswith("_fitted") for name in few.rows)
    assert few.rows["post_processing"].ending.detail == "not fitted: a fit needs 16 validation images; there are 9"
    told = capsys.readouterr().err
    assert told.count("post-processing is not fitted: a fit needs 16 validation images; there are 9") == 1


def test_the_strategy_tries_as_many_settings_as_the_budget_says_and_is_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def in_vain(
        candidates: Candidates, targets: Any, how: PostProcessingSettings, **options: Any
    ) -> FittedPostProcessing:
        tried.append(options["num_evaluations"])
        return FittedPostProcessing(settings=how, gain=0.0, told="not kept")

    for module in (fitting, postprocessing):
        monkeypatch.setattr(module, "fit_postprocessing", in_vain)
    strategies = rl_det.PostProcessing(), rl_det.PostProcessing(name="own", num_evaluations=7)
    found = tuned(tmp_path / "run", *strategies)
    assert tried == [22, 7, 22, 22], "the two strategies, and then the warm start's row and the control's"
    assert not {"post_processing_fitted", "own_fitted"} & found.rows.keys()


def test_where_the_budget_fits_no_rows_the_strategy_tries_as_many_settings_as_by_the_full_budget(
    tmp_path: Path,
) -> None:
    data = small_data()
    detector, budget = rl_det.load_detector("tiny", data, device="cpu"), replace(FEW, fit_evaluations=0)
    plan = plan_run(
        detector, data, [rl_det.PostProcessing()], budget, recipe_for(data), 0, baselines=False, out=tmp_path
    )
    assert plan.task().fit_evaluations == rl_det.Budget().fit_evaluations > 0


def test_a_name_that_would_be_a_fitted_rows_is_refused(tmp_path: Path) -> None:
    data = rl_det.open_data([Pairs(split) for split in ("train", "val", "test")], classes=["low", "high"])
    detector = rl_det.load_detector(own_model(), data)
    with pytest.raises(
        ValueError, match="'ppo_fitted' is the row of ppo with fitted post-processing; give the PPO another"
    ):
        rl_det.finetune(
            detector, data, rl_det.PPO(), rl_det.PPO(name="ppo_fitted"), budget=BUDGET, out=tmp_path / "run"
        )


@pytest.mark.parametrize("family", ["retinanet", *QUERY_FAMILIES[:1]])
def test_it_follows_detectors_of_other_families(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = replace(PostProcessingSettings(nms_iou=0.6), votes=Votes(step=0.5, mean_share=0.5, support=0.2))

    def any_fit(*_: Any, **__: Any) -> FittedPostProcessing:  # untrained detectors gain nothing by a real one
        return FittedPostProcessing(settings=kept, gain=0.1, told="kept")

    monkeypatch.setattr(fitting, "fit_postprocessing", any_fit)
    data = rl_det.open_data([OfThree(split, count) for split, count in (("train", 4), ("val", 16), ("test", 3))])
    model = build(family).detector.plain()
    result = rl_det.finetune(rl_det.load_detector(model, data), data, rl_det.Labels(), budget=FEW, out=tmp_path / "run")
    folder = result.rows["warm_start_fitted"].export(tmp_path / "better")
    own = result.rows["warm_start_fitted"].tuned
    assert own is not None
    assert own.policy.postprocessing.votes == kept.votes
    model = build(family).fresh() if own.policy.detector.architecture.library == "own" else None
    again = rl_det.load_tuned(folder, model)
    images = [data.test[index].image for index in range(3)]
    for ours, theirs in zip(own.detect(images), again.detect(images), strict=True):
        assert len(ours["scores"]) > 0
        assert torch.equal(ours["boxes"], theirs["boxes"])
        assert torch.equal(ours["scores"], theirs["scores"])
