"""The running mean of a model's weights, and copies of its state."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The running mean of a model's weights and buffers; each step has the share 1 - decay.

    In the first steps the decay is smaller, (1 + n) / (10 + n) after n steps, so that the random start is soon
    forgotten (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def update(mean: Any, current: Any, num_averaged: Any) -> None:
        count = float(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(mean, current, num_averaged)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state, which later training does not change."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}
