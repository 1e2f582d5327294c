"""Moves between boxes: there and back, and the same as torchvision's."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from rl_det.boxes import WEIGHTS, move_between, moved


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
