"""Advantages: a baseline that is fair, and one scale for all."""

import pytest
import torch

from rl_det.advantages import leave_one_out, scaled


def test_leave_one_out_compares_with_the_mean_of_the_others() -> None:
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[1.0 - 4.0, 2.0 - 3.5, 6.0 - 1.5]]))
    assert not leave_one_out(torch.full((2, 4), 7.0)).any()


def test_one_sample_has_no_others() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.zeros(3, 1))


def test_scaling_sees_the_real_alone_and_keeps_zeros() -> None:
    mask = torch.tensor([[True, True, False]])
    found = scaled(torch.tensor([[3.0, -4.0, 100.0]]), mask)
    torch.testing.assert_close(found, torch.tensor([[3.0, -4.0, 0.0]]) / 12.5**0.5)
    assert not scaled(torch.zeros(1, 3), mask).any()
    assert not scaled(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)).any()
