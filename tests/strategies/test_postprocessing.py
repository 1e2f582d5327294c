"""Post-processing fitted by CMA-ES: the same by the same seed, and kept only if it helps images that it was not fitted on."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from strategies.scenes import a_task, shipped

from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of
from rl_det.candidates.voted_ap import VotedAp
from rl_det.candidates.votes import Votes
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.policies.build import build_policy
from rl_det.policies.detections import candidates_of
from rl_det.strategies import postprocessing
from rl_det.strategies.hand_set import WarmStart
from rl_det.strategies.labels import Labels
from rl_det.strategies.postprocessing import (
    BOUNDS,
    FittedPostProcessing,
    PostProcessing,
    fit_numbers,
    fit_postprocessing,
    numbers_of,
    settings_at,
    splits_of,
    starts,
)
from rl_det.types import Candidates, Target

NUM_SCENES, NUM_CANDIDATES = 24, 60
HOW = PostProcessingSettings(nms_iou=0.5)
USUAL: dict[str, Any] = {"num_classes": len(CLASSES), "num_evaluations": 22, "seed": 0}


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return encode_dataset(shipped(), DigitScenes("val", num_scenes=NUM_SCENES))


@pytest.fixture(scope="module")
def candidates(data: EncodedDataset) -> Candidates:
    return candidates_of(build_policy("rescore", shipped()), data, NUM_CANDIDATES)


@pytest.fixture(scope="module")
def fitted(candidates: Candidates, data: EncodedDataset) -> FittedPostProcessing:
    return fit_postprocessing(candidates, data.targets, HOW, **USUAL)


def test_a_fit_is_kept_here_and_the_same_seed_gives_the_same_numbers(
    candidates: Candidates, data: EncodedDataset, fitted: FittedPostProcessing
) -> None:
    assert fitted.gain > 0
    assert not fitted.settings.votes.is_neutral
    assert "in AP x 100: +" in fitted.told
    assert fit_postprocessing(candidates, data.targets, HOW, **USUAL) == fitted
    assert fit_postprocessing(candidates, data.targets, HOW, **{**USUAL, "seed": 1}).settings != fitted.settings


def test_the_gain_is_that_on_the_halves_that_the_fits_have_not_seen(
    candidates: Candidates, data: EncodedDataset, fitted: FittedPostProcessing
) -> None:
    gains, numbers = [], []
    for number, halves in enumerate(splits_of(NUM_SCENES, 0)):
        assert sorted(np.concatenate(halves).tolist()) == list(range(NUM_SCENES))
        one, other = (
            VotedAp(candidates[torch.from_numpy(half)], [data.targets[i] for i in half], num_classes=len(CLASSES))
            for half in halves
        )
        for seen, unseen in ((one, other), (other, one)):
            numbers.append(fit_numbers(seen, HOW, USUAL["num_evaluations"], number))
            gains.append(unseen(settings_at(numbers[-1], HOW)) - unseen(HOW))
    assert fitted.gain == pytest.approx(sum(gains) / 8)
    assert fitted.settings == settings_at(np.mean(numbers, 0), HOW)
    assert (
        f"{100 * fitted.gain:+.2f} in the mean of 8 ({100 * min(gains):+.2f} to {100 * max(gains):+.2f})" in fitted.told
    )


@pytest.mark.parametrize(("num_images", "splits"), [(16, 4), (100, 4), (101, 3), (200, 2), (201, 1), (5000, 1)])
def test_few_images_are_divided_several_times_each_time_otherwise(num_images: int, splits: int) -> None:
    first = [tuple(halves[0].tolist()) for halves in splits_of(num_images, 0)]
    assert len(set(first)) == len(first) == splits
    assert first[0] == tuple(np.array_split(np.random.default_rng(0).permutation(num_images), 2)[0].tolist())
    assert all(len(half) in (num_images // 2, num_images - num_images // 2) for half in first)
    assert set(first).isdisjoint(tuple(halves[0].tolist()) for halves in splits_of(num_images, 1))


def test_a_search_finds_the_top_of_a_smooth_hill_and_beats_its_start() -> None:
    top = replace(PostProcessingSettings.soft(0.6, 1.0), votes=Votes(step=0.5, mean_share=0.2, support=0.4))

    def worth(how: PostProcessingSettings) -> float:
        return -float(np.square(numbers_of(how) - numbers_of(top)).sum())

    found = settings_at(fit_numbers(worth, HOW, 1500, 0), HOW)
    assert worth(found) > -0.01 > max(worth(start) for start in starts(HOW))


@pytest.mark.parametrize("votes", [Votes(mean_share=-0.5, support=-2.0), Votes(step=1.0, mean_share=0.5)])
def test_a_fit_that_gains_nothing_on_held_back_images_is_not_kept(
    candidates: Candidates, data: EncodedDataset, monkeypatch: pytest.MonkeyPatch, votes: Votes
) -> None:
    monkeypatch.setattr(postprocessing, "fit_numbers", lambda *_: numbers_of(replace(HOW, votes=votes)))
    found = fit_postprocessing(candidates, data.targets, HOW, **USUAL)
    if votes.mean_share > 0:
        assert found.gain > 0
        assert found.settings.votes.mean_share == pytest.approx(votes.mean_share)
    else:
        assert (found.settings, found.gain) == (HOW, 0.0)
        assert found.told.startswith("not kept: ")


def test_too_few_images_no_true_boxes_and_logits_that_are_not_finite_are_not_fitted_and_that_is_said(
    candidates: Candidates, data: EncodedDataset
) -> None:
    def told(candidates: Candidates, targets: list[Target]) -> str:
        found = fit_postprocessing(candidates, targets, HOW, **USUAL)
        assert (found.settings, found.gain) == (HOW, 0.0)
        return found.told

    few = candidates[slice(0, 15)]
    assert told(few, data.targets[:15]) == "not fitted: a fit needs 16 validation images; there are 15"
    empty = [replace(target, iscrowd=torch.ones_like(target.iscrowd)) for target in data.targets]
    assert told(candidates, empty) == "not fitted: a half of the validation images has no true box"
    wild = replace(candidates, logits=candidates.logits.clone().index_fill(1, torch.tensor([3]), torch.nan))
    assert told(wild, data.targets) == "not fitted: a logit is not finite"


def test_images_without_candidates_are_fitted_on_like_any_other(candidates: Candidates, data: EncodedDataset) -> None:
    mask = candidates.mask & (torch.arange(NUM_SCENES) % 3 > 0)[:, None]
    some = replace(candidates, mask=mask, logits=candidates.logits.masked_fill(~mask, -torch.inf))
    found = fit_postprocessing(some, data.targets, HOW, **USUAL)
    assert all(len(each["scores"]) == 0 for each in detections_of(some, found.settings)[::3])
    nobody = replace(some, mask=mask & False, logits=torch.full_like(some.logits, -torch.inf))
    assert fit_postprocessing(nobody, data.targets, HOW, **USUAL).gain == 0.0


@pytest.mark.parametrize("how", [HOW, PostProcessingSettings(nms_iou=1.0), PostProcessingSettings.soft(0.7, 2.0)])
def test_numbers_and_settings_are_two_forms_of_the_same(how: PostProcessingSettings) -> None:
    for start in starts(replace(how, max_detections=7)):
        back = settings_at(numbers_of(start), start)
        assert back.max_detections == 7
        assert numbers_of(back) == pytest.approx(numbers_of(start), abs=1e-12)
        assert (numbers_of(start) >= BOUNDS[:, 0]).all()
        assert (numbers_of(start) <= BOUNDS[:, 1]).all()
    assert settings_at(BOUNDS[:, 1], how).nms_iou == 1.0
    assert settings_at(BOUNDS[:, 0], how).is_hard


def test_a_detector_whose_nms_is_out_of_bounds_is_searched_from_the_bound() -> None:
    seen: list[float] = []

    def worth(how: PostProcessingSettings) -> float:
        seen.append(how.nms_iou)
        return how.nms_iou

    fit_numbers(worth, PostProcessingSettings(nms_iou=0.05), 40, 0)
    assert min(seen[5:]) >= 0.2 - 1e-9


@pytest.mark.parametrize("after", [WarmStart(), Labels()])
def test_as_a_strategy_it_follows_another_and_reports_what_it_gains_on_held_back_images(
    data: EncodedDataset, after: WarmStart | Labels
) -> None:
    task, strategy = a_task(data), PostProcessing(after=after)
    policy = strategy.start(shipped())
    before = task.validation_ap(policy)
    ending = strategy.tune(policy, task)
    assert not policy.postprocessing.votes.is_neutral
    assert ending.best is not None
    assert ending.best > before
    assert "halves that they have not seen" in ending.detail
