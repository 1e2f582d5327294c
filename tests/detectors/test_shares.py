"""Batch normalisation over several processes: in one process, it is torch's own, in every precision."""

import pytest
import torch
from torch import nn

from rl_det import parallel
from rl_det.detectors.shares import _normed


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over one process is what it has."""
    monkeypatch.setattr(parallel, "sum_of", lambda values: values)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_outputs_and_running_statistics_are_those_of_the_layer(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 4, 5, 6).to(dtype) + 2
    ours, own = (nn.BatchNorm2d(4).to(torch.float64 if dtype == torch.float64 else torch.float32) for _ in range(2))
    found, wanted = _normed(ours, inputs), own(inputs)
    assert found.dtype == inputs.dtype
    torch.testing.assert_close(found, wanted.to(dtype))
    for name, buffer in own.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)


def test_in_evaluation_the_layer_uses_its_running_statistics() -> None:
    layer, inputs = nn.BatchNorm2d(2).eval(), torch.randn(2, 2, 3, 3)
    assert torch.equal(_normed(layer, inputs), layer(inputs))


def test_one_value_of_a_channel_has_no_variance() -> None:
    with pytest.raises(ValueError, match="more than one value of each channel; got 1"):
        _normed(nn.BatchNorm2d(2), torch.randn(1, 2, 1, 1))
