"""The vote of an image's proposals: at the start it changes nothing, and then it goes where the neighbours are."""

import pytest
import torch
from torch import Tensor

from rl_det.candidates.neighbours import neighbours
from rl_det.policies import voting_module
from rl_det.policies.voting_module import VotingModule, rival_logits, rounded_up

NUM_CLASSES, NUM_PROPOSALS = 2, 4
Input = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def one_image() -> Input:
    """Three proposals on one object, class 1 surest of it, and one elsewhere; a candidate of each and one of class 2."""
    corner = torch.tensor([[0.10, 0.10], [0.11, 0.10], [0.12, 0.10], [0.60, 0.60]])
    boxes = torch.cat([corner, corner + 0.2], -1)[None, :, None].expand(-1, -1, NUM_CLASSES, -1).contiguous()
    logits = torch.tensor([[[2.0, -1.0], [1.0, -1.0], [0.0, -1.0], [1.0, 0.0]]])
    index = torch.tensor([[0, 2, 6, 4, 1]])
    chosen = boxes.flatten(1, 2)[:, index[0]]
    return chosen, logits.flatten(1).gather(1, index), index, boxes, logits


def trusting(*, step: float = 0.0, mean_share: float = 0.0) -> VotingModule:
    module = VotingModule(NUM_CLASSES)
    module.vote_plainly(step, mean_share)
    return module


def test_at_the_start_boxes_and_logits_come_back_bit_for_bit() -> None:
    some = one_image()
    boxes, logits = VotingModule(NUM_CLASSES)(*some)
    assert torch.equal(boxes, some[0])
    assert torch.equal(logits, some[1])


def test_neighbours_are_the_proposals_that_overlap_the_candidate_itself_among_them() -> None:
    some = one_image()
    pairs = torch.stack(neighbours(some[0], some[2], some[3]), -1).tolist()
    assert [proposal for candidate, proposal in pairs if candidate == 1] == [0, 1, 2]
    assert [proposal for candidate, proposal in pairs if candidate == 2] == [3]


def test_a_voted_box_lies_among_its_neighbours_and_one_alone_stays() -> None:
    some = one_image()
    boxes = trusting(step=1.0)(*some)[0].detach()
    assert 0.10 < float(boxes[0, 0, 0]) < 0.11
    torch.testing.assert_close(boxes[0, 2], some[0][0, 2])


def test_a_step_far_beyond_the_mean_turns_no_box_inside_out() -> None:
    chosen, own, index, boxes, logits = one_image()
    boxes[0, 1, :, 2] -= 0.05  # thinner than the others
    voted = trusting(step=100.0)(boxes.flatten(1, 2)[:, index[0]], own, index, boxes, logits)[0].detach()
    assert (voted[..., 2:] >= voted[..., :2]).all()
    torch.testing.assert_close(voted[0, 2], chosen[0, 2])  # alone


def test_a_share_of_the_mean_draws_logits_together() -> None:
    some = one_image()
    logits = trusting(mean_share=0.5)(*some)[1].detach()
    assert 1.0 < float(logits[0, 0]) < 2.0
    assert float(logits[0, 2]) == 1.0


def test_gradient_reaches_the_boxes_and_logits_of_the_neighbours() -> None:
    chosen, own, index, boxes, logits = one_image()
    boxes.requires_grad_()
    logits.requires_grad_()
    voted, agreed = trusting(step=1.0, mean_share=0.5)(chosen, own, index, boxes, logits)
    (voted[0, 0].sum() + agreed[0, 0]).backward()
    assert boxes.grad is not None
    assert logits.grad is not None
    assert boxes.grad[0, 2, 0].any()
    assert not boxes.grad[0, 3].any()
    assert logits.grad[0, 2, 0] > 0


def test_a_rival_is_the_best_other_class() -> None:
    assert rival_logits(torch.tensor([[[2.0, -1.0, 0.5]]])).tolist() == [[[0.5, 2.0, 2.0]]]


def test_with_one_class_there_is_no_other() -> None:
    assert rival_logits(torch.tensor([[[2.0]]])).tolist() == [[[2.0]]]


def random_images() -> Input:
    """Two images of forty proposals that crowd, and thirty candidates."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 40, NUM_CLASSES, 2, generator=generator) / 2
    boxes = torch.cat([corner, corner + 0.2 + 0.2 * torch.rand(2, 40, NUM_CLASSES, 2, generator=generator)], -1)
    logits = torch.randn(2, 40, NUM_CLASSES, generator=generator)
    index = torch.stack([torch.randperm(40 * NUM_CLASSES, generator=generator)[:30] for _ in range(2)])
    chosen = boxes.flatten(1, 2)[torch.arange(2)[:, None], index]
    return chosen, logits.flatten(1).gather(1, index), index, boxes, logits


def opinionated() -> VotingModule:
    torch.manual_seed(1)
    module = trusting(step=0.5, mean_share=0.3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return module


def test_what_pairs_say_is_the_layers_of_the_state_dict_one_by_one() -> None:
    module, seen = opinionated(), torch.randn(5, 70, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(module.opinion(seen), module.weight(seen.T)[:, 0])


@pytest.mark.parametrize(
    ("number", "rounded"), [(0, 0), (1, 1), (7, 7), (9, 10), (15, 16), (16, 16), (1001, 1024), (4097, 5120)]
)
def test_pairs_are_rounded_up_by_copies_that_are_summed_behind_all_rows(number: int, rounded: int) -> None:
    row, pair = torch.arange(number) // 3, torch.arange(number) + 5
    seat, longer_row, longer_pair = rounded_up(row, pair, 400)
    assert len(seat) == len(longer_row) == len(longer_pair) == rounded
    assert torch.equal(seat[:number], row)
    assert torch.equal(longer_row[:number], row)
    assert torch.equal(longer_pair[:number], pair)
    assert (seat[number:] == 400).all()
    assert (longer_row[number:] == row[-1:]).all()
    assert (longer_pair[number:] == pair[-1:]).all()


def test_the_copies_of_the_last_pair_count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def result() -> list[Tensor]:
        module, (chosen, own, index, boxes, logits) = opinionated(), random_images()
        boxes, logits = boxes.requires_grad_(), logits.requires_grad_()
        voted, agreed = module(chosen, own, index, boxes, logits)
        (voted.square().sum() + agreed.square().sum()).backward()
        return [voted.detach(), agreed.detach(), boxes.grad, logits.grad, *(p.grad for p in module.parameters())]

    some = random_images()
    number = len(neighbours(some[0], some[2], some[3])[0])
    assert len(rounded_up(torch.arange(number), torch.arange(number), 60)[0]) > number
    rounded = result()
    monkeypatch.setattr(voting_module, "rounded_up", lambda row, pair, num_candidates: (row, row, pair))
    for ours, plain in zip(rounded, result(), strict=True):
        if plain is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
