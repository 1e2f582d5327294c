"""Areas, overlaps and moves of boxes: torchvision's; a move leads there and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, box_iou

from rl_det.boxes import WEIGHTS, area, intersection, iou, move_between, moved


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    corner = 50 * torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0))
    side = 5 + 20 * torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(1))
    first, second = torch.cat([corner, corner + side], -1)
    return first, second


def test_a_move_leads_from_one_box_to_the_other(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(moved(pair[0], move_between(*pair)), pair[1])


def test_it_is_what_torchvision_regresses_to(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(move_between(*pair), BoxCoder(WEIGHTS).encode_single(pair[1], pair[0]))


def test_a_box_without_area_has_a_finite_move_and_gradient() -> None:
    box = torch.zeros(1, 4, requires_grad=True)
    move_between(torch.zeros(1, 4), box).sum().backward()
    assert box.grad is not None
    assert box.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), num_boxes=st.integers(0, 7), num_others=st.integers(0, 5))
def test_overlaps_and_areas_are_torchvisions(seed: int, num_boxes: int, num_others: int) -> None:
    """To the last bit: boxes on a grid, so that many touch, are equal or share a side, and boxes anywhere."""
    rng = np.random.default_rng(seed)
    corner, side = (rng.integers(low, 4, (num_boxes + num_others, 2)) for low in (0, 1))
    grid = np.concatenate([corner, corner + side], -1) + rng.choice([0, 1e-3], (num_boxes + num_others, 4))
    boxes, others = torch.from_numpy(grid).float().split([num_boxes, num_others])
    assert torch.equal(area(boxes), box_area(boxes))
    assert torch.equal(iou(boxes[:, None], others), box_iou(boxes, others))
    shared = intersection(boxes[:, None], others)
    torch.testing.assert_close(shared, box_iou(boxes, others) * (area(boxes)[:, None] + area(others) - shared))


@pytest.mark.parametrize("side", [1e-12, 1e-5, 1e-4, 1.0, 1e6])
def test_a_box_of_any_size_overlaps_itself_wholly_and_half_of_itself_by_a_half(side: float) -> None:
    box, half = torch.tensor([0.0, 0.0, side, side]), torch.tensor([0.0, 0.0, side, side / 2])
    assert iou(box, box).item() == 1
    assert iou(box, half).item() == pytest.approx(0.5)


def test_boxes_without_area_overlap_nothing_and_have_a_finite_gradient() -> None:
    point, line, box = (torch.tensor(corners, requires_grad=True) for corners in (
        [0.5, 0.5, 0.5, 0.5], [0.0, 0.5, 1.0, 0.5], [0.0, 0.0, 1.0, 1.0]
    ))  # fmt: skip
    some = torch.stack([point, line, box])
    overlap = iou(some[:, None], some)
    assert overlap.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    overlap.sum().backward()
    for corners in (point, line, box):
        assert corners.grad is not None
        assert corners.grad.isfinite().all()


def test_a_box_that_is_inside_out_overlaps_nothing_and_one_that_is_no_number_stays_in_sight() -> None:
    box = torch.tensor([0.0, 0.0, 2.0, 2.0])
    assert iou(box, torch.tensor([[2.0, 0.0, 0.0, 2.0], [2.0, 0.0, 0.0, 9.0], [2.0, 2.0, 0.0, 0.0]])).tolist() == [
        0,
        0,
        0,
    ]
    assert iou(box, torch.tensor([0.0, 0.0, torch.nan, 2.0])).isnan()
