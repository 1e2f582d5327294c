"""Advantages: a baseline that is fair, and one scale for all."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rl_det.losses.advantages import candidate_advantages, group_normalised, leave_one_out, scaled


def test_leave_one_out_compares_with_the_mean_of_the_others() -> None:
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]]))
    assert not leave_one_out(torch.full((2, 4), 7.0)).any()


def test_a_group_is_measured_by_its_own_spread() -> None:
    found = group_normalised(torch.tensor([[1.0, 2.0, 6.0], [0.01, 0.02, 0.06], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found[0], torch.tensor([-2.0, -1.0, 3.0]) / 7**0.5)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert not found[2].any()


@pytest.mark.parametrize("fair", [leave_one_out, group_normalised])
def test_one_sample_has_no_others(fair: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        fair(torch.zeros(3, 1))


def test_the_judge_decides_what_a_candidate_is_judged_by() -> None:
    reward, mask = torch.tensor([[1.0, 2.0, 6.0]]), torch.ones(1, 3, 2, dtype=torch.bool)
    credit, log_prob = torch.arange(6.0).view(3, 2), torch.zeros(1, 3, 2)
    by_credit, alone, group = (
        candidate_advantages(reward, credit, log_prob, mask, advantage)
        for advantage in ("counterfactual", "leave_one_out", "group")
    )
    torch.testing.assert_close(by_credit, scaled(credit[None], mask))
    torch.testing.assert_close(alone, scaled(leave_one_out(reward)[..., None].expand(-1, -1, 2), mask))
    torch.testing.assert_close(group, scaled(group_normalised(reward)[..., None].expand(-1, -1, 2), mask))
    torch.testing.assert_close(candidate_advantages(reward, None, log_prob, mask), alone)


def test_scaling_sees_the_real_alone_and_keeps_zeros() -> None:
    mask = torch.tensor([[True, True, False]])
    found = scaled(torch.tensor([[3.0, -4.0, 100.0]]), mask)
    torch.testing.assert_close(found, torch.tensor([[3.0, -4.0, 0.0]]) / 12.5**0.5)
    assert not scaled(torch.zeros(1, 3), mask).any()
    assert not scaled(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)).any()
