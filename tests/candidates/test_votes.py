"""Votes among candidates: as a slow obvious version says, nothing at the neutral numbers, and a box between its voters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of, ranked
from rl_det.candidates.voted_ap import VotedAp
from rl_det.candidates.votes import NEIGHBOUR_IOU, SHARPNESS, Votes, electorate, vote, voted
from rl_det.errors import UserError
from rl_det.metrics.coco import coco_summary
from rl_det.types import Candidates, Target

ALL_NUMBERS = Votes(
    sharpness=0.07, score_exponent=0.8, step=0.6, step_slope=0.2, mean_share=0.4, softness=0.3, support=0.5, spread=-2.0,
    size=0.3, small=-0.4, large=0.7,
)  # fmt: skip


def candidates(num_images: int = 3, num_candidates: int = 40, *, seed: int = 0, side: float = 20.0) -> Candidates:
    """Crowds of boxes of two classes and many sizes; padding in the last image."""
    generator = torch.Generator().manual_seed(seed)
    shape = num_images, num_candidates
    corner = side * torch.rand(*shape, 2, generator=generator)
    sides = torch.tensor([20.0, 60.0, 130.0])[torch.randint(3, shape, generator=generator)][..., None]
    sides = sides * (1 + 0.2 * torch.rand(*shape, 2, generator=generator))
    mask = torch.ones(shape, dtype=torch.bool)
    mask[-1, num_candidates // 3 :] = False
    logits = 3 * torch.randn(shape, generator=generator).sort(1, descending=True).values
    return Candidates(
        boxes=torch.cat([corner, corner + sides], -1) * mask[..., None],
        labels=torch.randint(1, 3, shape, generator=generator),
        logits=logits.masked_fill(~mask, -torch.inf),
        mask=mask,
        index=torch.arange(num_candidates).expand(shape),
    )


def nobody(num_images: int = 2) -> Candidates:
    """Images without candidates."""
    some = candidates(num_images)
    return replace(some, mask=torch.zeros_like(some.mask), logits=torch.full_like(some.logits, -torch.inf))


def targets(found: Candidates) -> list[Target]:
    """True boxes beside some of the candidates; none in the second image."""
    every = []
    for image in range(len(found)):
        few = slice(0, 0) if image == 1 else slice(0, 30, 4)
        boxes = found.boxes[image, few] + 1.5
        every.append(
            Target(boxes=boxes, labels=found.labels[image, few], area=(boxes[:, 2:] - boxes[:, :2]).prod(-1),
                   iscrowd=torch.arange(len(boxes)) == 3, image_id=image + 1)
        )  # fmt: skip
    return every


def slow_vote(boxes: Tensor, labels: Tensor, logits: Tensor, numbers: Votes) -> tuple[Tensor, Tensor]:
    """One image's boxes and logits after the vote, candidate by candidate, by the formulas of the module's docstring."""
    iou = box_iou(boxes, boxes).double()
    new_boxes, new_logits = boxes.clone(), logits.clone()
    for i in range(len(boxes)):
        near = (labels == labels[i]) & (iou[i] > NEIGHBOUR_IOU)
        overlap, theirs, votes = iou[i][near], boxes[near].double(), logits[near].double()
        weight = votes.clamp(-12, 12).sigmoid() ** numbers.score_exponent * ((overlap - 1) / numbers.sharpness).exp()
        share = numbers.step + numbers.step_slope * float(logits[i].clamp(-12, 12)) / 4
        share = min(1.0, max(0.0, share))
        new_boxes[i] = (1 - share) * boxes[i].double() + share * (weight[:, None] * theirs).sum(0) / weight.sum()
        soft = ((overlap - 1) / numbers.softness).exp()
        mean = (soft * votes).sum() / soft.sum()
        sharp = ((overlap - 1) / SHARPNESS).exp()
        side = (boxes[i, 2:] - boxes[i, :2]).repeat(2).clamp(min=1).double()
        apart = (theirs - boxes[i]) / side
        part = sharp[:, None] / sharp.sum()
        spread = ((part * apart**2).sum(0) - (part * apart).sum(0) ** 2).clamp(min=0).sqrt().mean()
        area = (boxes[i, 2:] - boxes[i, :2]).double().prod()
        new_logits[i] = (
            logits[i].double() + numbers.mean_share * (mean - logits[i]) + numbers.support * sharp.sum().log()
            + numbers.spread * spread + numbers.size * (area.sqrt() / 32).log()
            + numbers.small * (area < 32**2) + numbers.large * (area > 96**2)
        )  # fmt: skip
    return new_boxes, new_logits


ONE_NUMBER = [Votes(**{name: value}) for name, value in vars(ALL_NUMBERS).items()]


@pytest.mark.parametrize("numbers", [ALL_NUMBERS, *ONE_NUMBER, Votes(step=-0.5, step_slope=1.0), Votes(step=1.5)])
def test_a_vote_is_what_the_slow_version_says(numbers: Votes) -> None:
    before = candidates()
    after = voted(before, numbers)
    for image in range(len(before)):
        mask = before.mask[image]
        boxes, logits = slow_vote(
            before.boxes[image, mask], before.labels[image, mask], before.logits[image, mask], numbers
        )
        torch.testing.assert_close(after.boxes[image, mask], boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(after.logits[image, mask], logits, atol=1e-4, rtol=0)
        assert torch.equal(after.boxes[image, ~mask], before.boxes[image, ~mask])
        assert after.logits[image, ~mask].isneginf().all()


def test_every_number_with_an_effect_of_its_own_has_one() -> None:
    before, idle = candidates(), {"sharpness", "score_exponent", "softness"}
    for numbers, name in zip(ONE_NUMBER, vars(ALL_NUMBERS), strict=True):
        after = voted(before, numbers)
        same = torch.equal(after.boxes, before.boxes) and torch.equal(after.logits, before.logits)
        assert same == (name in idle) == numbers.is_neutral
        without = replace(ALL_NUMBERS, **{name: getattr(Votes(), name)})
        one, other = voted(before, ALL_NUMBERS), voted(before, without)
        assert not (torch.equal(one.boxes, other.boxes) and torch.equal(one.logits, other.logits)), name


def test_neutral_numbers_change_nothing_to_the_bit_even_if_they_are_computed() -> None:
    before = candidates()
    assert voted(before, Votes()) is before
    boxes, logits = vote(electorate(before), Votes())
    assert boxes.tobytes() == before.boxes.numpy().tobytes()
    assert logits.tobytes() == before.logits.numpy().tobytes()


def test_a_candidate_alone_keeps_its_box_and_votes_only_for_itself() -> None:
    alone = candidates(1, 3, side=0.0)
    apart = torch.tensor([[0.0, 0, 20, 20], [100, 100, 150, 150], [300, 300, 420, 420]])
    alone = replace(
        alone, boxes=apart[None], mask=torch.ones(1, 3, dtype=torch.bool), logits=torch.tensor([[2.0, 1, 0]])
    )
    after = voted(alone, Votes(step=1.0, mean_share=1.0, support=3.0, spread=5.0))
    assert torch.equal(after.boxes, alone.boxes)
    assert torch.equal(after.logits, alone.logits)


def test_images_without_candidates_and_boxes_without_area_are_no_trouble() -> None:
    assert torch.equal(voted(nobody(), ALL_NUMBERS).logits, nobody().logits)
    flat = candidates(1, 4)
    flat = replace(flat, boxes=torch.zeros(1, 4, 4), mask=torch.ones(1, 4, dtype=torch.bool), logits=torch.zeros(1, 4))
    after = voted(flat, ALL_NUMBERS)
    assert torch.equal(after.boxes, flat.boxes)
    assert after.logits.isfinite().all()
    judged = VotedAp(nobody(), targets(candidates(2)), num_classes=2)
    assert judged(PostProcessingSettings(nms_iou=0.5, votes=ALL_NUMBERS)) == 0.0


numbers_within = st.builds(
    Votes, sharpness=st.floats(0.02, 1), score_exponent=st.floats(0, 3), step=st.floats(-0.5, 1.5),
    step_slope=st.floats(-1, 1),
)  # fmt: skip


@given(numbers_within, st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_box_stays_between_its_voters_and_the_right_way_round(numbers: Votes, seed: int) -> None:
    before = candidates(1, 30, seed=seed)
    after = voted(before, numbers).boxes[0]
    assert (after[:, 2:] >= after[:, :2]).all()
    mask = before.mask[0]
    for i in mask.nonzero()[:, 0].tolist():
        same = mask & (before.labels[0] == before.labels[0, i])
        voters = before.boxes[0, same][box_iou(before.boxes[0, i : i + 1], before.boxes[0, same])[0] > 0.49]
        assert (after[i] >= voters.amin(0) - 1e-4).all()
        assert (after[i] <= voters.amax(0) + 1e-4).all()


SETTINGS = [
    PostProcessingSettings(nms_iou=0.5),
    PostProcessingSettings(nms_iou=0.6, votes=ALL_NUMBERS),
    PostProcessingSettings(nms_iou=1.0, votes=ALL_NUMBERS, max_detections=7),
    replace(PostProcessingSettings.soft(0.7, 1.5), votes=ALL_NUMBERS),
]


@pytest.mark.parametrize("how", SETTINGS)
def test_the_fast_map_is_that_of_the_detections_by_pycocotools(how: PostProcessingSettings) -> None:
    found = candidates()
    true = targets(found)
    fast = VotedAp(found, true, num_classes=2)(how)
    expected = coco_summary(detections_of(found, how), true, num_classes=2)["AP"]
    assert fast == pytest.approx(expected, abs=1e-9)
    assert 0.05 < fast < 0.95


@pytest.mark.parametrize("how", SETTINGS)
def test_the_last_scale_and_shift_change_scores_and_no_order(how: PostProcessingSettings) -> None:
    found = candidates()
    rescaled = replace(how, scale=(0.5,), shift=(-1.0,))
    for own, other in zip(detections_of(found, how), detections_of(found, rescaled), strict=True):
        assert torch.equal(own["boxes"], other["boxes"])
        expected = (0.5 * own["scores"].double().logit() - 1.0).sigmoid().float()
        torch.testing.assert_close(other["scores"], expected, atol=1e-5, rtol=0)
    assert np.array_equal(ranked(found, how).boxes, ranked(found, rescaled).boxes)


@pytest.mark.parametrize("how", SETTINGS)
def test_each_class_may_have_a_last_scale_and_shift_of_its_own(how: PostProcessingSettings) -> None:
    found, (scale, shift) = candidates(), ((0.5, 1.5), (-1.0, 0.5))
    how = replace(how, max_detections=1000)  # else other detections are the best of all classes
    rescaled = replace(how, scale=scale, shift=shift)
    for own, other in zip(detections_of(found, how), detections_of(found, rescaled), strict=True):
        assert (other["scores"].diff() <= 0).all(), "best first"
        for column in range(2):
            some, others = ({k: v[d["labels"] == column + 1] for k, v in d.items()} for d in (own, other))  # type: ignore[index]
            assert torch.equal(some["boxes"], others["boxes"])
            expected = (scale[column] * some["scores"].double().logit() + shift[column]).sigmoid().float()
            torch.testing.assert_close(others["scores"], expected, atol=1e-5, rtol=0)


def test_settings_go_through_json_whole() -> None:
    soft = replace(PostProcessingSettings.soft(0.6, 2.0), votes=ALL_NUMBERS, scale=(1.2, 0.8), shift=(-0.3, 0.1))
    hard = PostProcessingSettings(nms_iou=0.4)
    for how in (soft, hard):
        assert PostProcessingSettings.of(how.plain()) == how
    assert hard.plain()["sigma"] is None, "JSON has no infinity"
    for name in hard.plain():
        with pytest.raises(UserError, match=f"^{name} must be there; it is missing$"):
            PostProcessingSettings.of({key: value for key, value in hard.plain().items() if key != name})
    with pytest.raises(UserError, match=r"^votes.sharpness must be there; it is missing$"):
        PostProcessingSettings.of({**hard.plain(), "votes": {}})
    with pytest.raises(UserError, match=r"^votes must be a JSON object; got \[\]$"):
        PostProcessingSettings.of({**hard.plain(), "votes": []})
