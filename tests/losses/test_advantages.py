"""Advantages: a baseline that is fair, and one scale for all."""

from collections.abc import Callable
from functools import reduce

import pytest
import torch
from torch import Tensor

from rl_det.losses.advantages import candidate_advantages, group_normalised, leave_one_out, scaled, to_go


def test_leave_one_out_compares_with_the_mean_of_the_others() -> None:
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]]))
    assert not leave_one_out(torch.full((2, 4), 7.0)).any()


def test_a_group_is_measured_by_its_own_spread() -> None:
    found = group_normalised(torch.tensor([[1.0, 2.0, 6.0], [0.01, 0.02, 0.06], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found[0], torch.tensor([-2.0, -1.0, 3.0]) / 7**0.5)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert not found[2].any()


GROUPS = pytest.mark.parametrize("fair", [leave_one_out, group_normalised])


@GROUPS
@pytest.mark.parametrize("num_samples", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("size", [1e-6, 1.0, 30.0])
def test_equal_rewards_of_a_group_give_exactly_nothing(
    fair: Callable[[Tensor], Tensor], num_samples: int, size: float
) -> None:
    equal = size * (2 * torch.rand(5000, 1, generator=torch.Generator().manual_seed(0)) - 1)
    found = fair(equal.expand(5000, num_samples).contiguous())
    assert not found.any()
    assert not scaled(found, torch.ones_like(found, dtype=torch.bool)).any()


@GROUPS
def test_rewards_that_differ_by_rounding_alone_are_equal(fair: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    terms = torch.rand(2000, 30, generator=generator)
    orders = [torch.randperm(30, generator=generator) for _ in range(8)]
    summed = torch.stack([reduce(torch.add, terms[:, order].unbind(1)) for order in orders], 1)
    assert (summed != summed[:, :1]).any(1).float().mean() > 0.5
    assert not fair(summed).any()
    assert not fair(1e-15 * torch.randn(100, 8, generator=generator)).any(), "differences of equal mAPs"


@GROUPS
@pytest.mark.parametrize("level", [0.0, 0.01, 0.5, 0.995, 0.999999])
def test_a_millionth_of_ap_counts(fair: Callable[[Tensor], Tensor], level: float) -> None:
    reward = level + torch.tensor([[0.0, 0.0, 0.0, 1e-6]], dtype=torch.float64)
    expected = fair(reward)
    torch.testing.assert_close(fair(reward.float()), expected.float(), rtol=0.1, atol=0)


@GROUPS
def test_groups_without_a_difference_leave_the_others_as_they_are(fair: Callable[[Tensor], Tensor]) -> None:
    differing = torch.tensor([[0.7, 0.7, 0.7001, 0.69, 0.7, 0.7, 0.7, 0.7]])
    equal = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)).expand(500, 8)
    found = fair(torch.cat([differing, equal]))
    torch.testing.assert_close(found[:1], fair(differing.double()).float(), rtol=1e-4, atol=1e-6)
    assert not found[1:].any()


@GROUPS
def test_one_sample_has_no_others(fair: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        fair(torch.zeros(3, 1))


def test_the_judge_decides_what_a_candidate_is_judged_by() -> None:
    reward, mask = torch.tensor([[[1.0, 2.0, 6.0]]]), torch.ones(1, 1, 3, 2, dtype=torch.bool)
    credit, log_prob = torch.arange(6.0).view(1, 1, 3, 2), torch.zeros(1, 1, 3, 2)
    by_credit, alone, group = (
        candidate_advantages(reward, credit, log_prob, mask, advantage)
        for advantage in ("counterfactual", "leave_one_out", "group")
    )
    torch.testing.assert_close(by_credit, scaled(credit, mask))
    torch.testing.assert_close(alone, scaled(leave_one_out(reward[0])[None, ..., None].expand(-1, -1, -1, 2), mask))
    torch.testing.assert_close(group, scaled(group_normalised(reward[0])[None, ..., None].expand(-1, -1, -1, 2), mask))


def test_credit_that_is_asked_for_and_not_given_is_refused() -> None:
    reward, log_prob = torch.zeros(1, 1, 3), torch.zeros(1, 1, 3, 2)
    with pytest.raises(ValueError, match="needs the credit of these rewards, and the environment gives none"):
        candidate_advantages(reward, None, log_prob, log_prob.bool(), "counterfactual")


def test_what_is_earned_from_a_step_on_discounts_later_steps() -> None:
    earned = torch.tensor([[1.0], [10.0], [100.0]])
    assert to_go(earned, 1.0)[:, 0].tolist() == [111.0, 110.0, 100.0]
    assert to_go(earned, 0.5)[:, 0].tolist() == [31.0, 60.0, 100.0]
    assert to_go(earned, 0.0)[:, 0].tolist() == [1.0, 10.0, 100.0]


def test_several_steps_share_one_scale_and_count_what_comes_after() -> None:
    credit = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    mask, reward = torch.ones(2, 1, 1, 1, dtype=torch.bool), torch.zeros(2, 1, 1)
    found = candidate_advantages(reward, credit, torch.zeros_like(credit), mask, "counterfactual")
    torch.testing.assert_close(found.flatten(), torch.tensor([4.0, 3.0]) / 12.5**0.5)
    pair = torch.tensor([[[0.0, 1.0]], [[4.0, 0.0]]])  # from the first step on 4 and 1, from the second 4 and 0
    whole = candidate_advantages(pair, None, torch.zeros(2, 1, 2, 1), mask.expand(2, 1, 2, 1), "leave_one_out")
    torch.testing.assert_close(whole[..., 0].flatten(), torch.tensor([3.0, -3.0, 4.0, -4.0]) / 12.5**0.5)


def test_scaling_sees_the_real_alone_and_keeps_zeros() -> None:
    mask = torch.tensor([[True, True, False]])
    found = scaled(torch.tensor([[3.0, -4.0, 100.0]]), mask)
    torch.testing.assert_close(found, torch.tensor([[3.0, -4.0, 0.0]]) / 12.5**0.5)
    assert not scaled(torch.zeros(1, 3), mask).any()
    assert not scaled(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)).any()
