"""One setting of non-maximum suppression for all images: hard as the library's NMS, soft as the engine's, and its limits."""

from typing import Any

import numpy as np
import pytest
import torch

from rl_det.ap.padding import pad_detections
from rl_det.candidates import nms
from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of, ranked
from rl_det.types import Candidates


def candidates(num_images: int = 3, num_candidates: int = 30) -> Candidates:
    """Crowded boxes of two classes, best first, with padding in the last image."""
    generator = torch.Generator().manual_seed(0)
    shape = num_images, num_candidates
    corner = 30 * torch.rand(*shape, 2, generator=generator)
    mask = torch.ones(shape, dtype=torch.bool)
    mask[-1, 10:] = False
    logits = torch.randn(shape, generator=generator).sort(1, descending=True).values
    return Candidates(
        boxes=torch.cat([corner, corner + 15], -1) * mask[..., None],
        labels=torch.randint(1, 3, shape, generator=generator),
        logits=logits.masked_fill(~mask, -torch.inf),
        mask=mask,
        index=torch.arange(num_candidates).expand(shape),
    )


@pytest.mark.parametrize("nms_iou", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("max_detections", [5, 100])
def test_hard_suppression_is_nms_and_the_padded_form_says_the_same(nms_iou: float, max_detections: int) -> None:
    how = PostProcessingSettings(nms_iou=nms_iou, max_detections=max_detections)
    assert how.is_hard
    found = detections_of(candidates(), how)
    for ours, theirs in zip(found, nms(candidates(), nms_iou=nms_iou, max_detections=max_detections), strict=True):
        assert torch.equal(ours["boxes"], theirs["boxes"])
        assert torch.equal(ours["scores"], theirs["scores"])
    padded, wanted = ranked(candidates(), how), pad_detections(found)
    for row in range(3):
        assert padded.mask[row].sum() == wanted.mask[row].sum()
        np.testing.assert_allclose(
            padded.scores[row][padded.mask[row]], wanted.scores[row][wanted.mask[row]], atol=1e-6
        )


def test_soft_suppression_keeps_more_with_scores_that_fall_and_stays_sorted() -> None:
    hard, soft = (detections_of(candidates(), PostProcessingSettings.soft(1.0, decay)) for decay in (0.0, 2.0))
    for before, after in zip(hard, soft, strict=True):
        assert len(after["scores"]) == len(before["scores"])
        assert after["scores"].sum() < before["scores"].sum()
        assert (after["scores"].diff() <= 0).all()
        assert after["scores"][0] == pytest.approx(float(before["scores"][0]), abs=1e-6)
        assert ((after["scores"] >= 0) & (after["scores"] <= 1)).all()


def test_a_decay_of_0_is_hard_and_any_other_is_soft() -> None:
    assert PostProcessingSettings.soft(0.5, 0.0) == PostProcessingSettings(nms_iou=0.5)
    assert PostProcessingSettings.soft(0.5, 4.0) == PostProcessingSettings(nms_iou=0.5, sigma=0.25)
    assert not PostProcessingSettings.soft(0.5, 4.0).is_hard


@pytest.mark.parametrize("how", [PostProcessingSettings(nms_iou=0.5), PostProcessingSettings.soft(0.5, 1.0)])
def test_images_without_candidates_have_no_detections(how: PostProcessingSettings) -> None:
    some = candidates(1)
    empty = Candidates(
        **{**vars(some), "mask": torch.zeros_like(some.mask), "logits": torch.full_like(some.logits, -torch.inf)}
    )
    (found,) = detections_of(empty, how)
    assert found["boxes"].shape == (0, 4)
    assert len(found["labels"]) == len(found["scores"]) == 0


@pytest.mark.parametrize("wrong", [{"nms_iou": -0.1}, {"nms_iou": 1.1}, {"sigma": 0.0}, {"max_detections": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must .*; got .* is usual"):
        PostProcessingSettings(**{"nms_iou": 0.5} | wrong)
