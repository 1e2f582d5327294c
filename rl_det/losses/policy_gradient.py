"""The losses of REINFORCE and PPO, candidate by candidate, from log-probabilities and advantages."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def reinforce_loss(
    log_prob: Float[Tensor, "*shape"], advantage: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """The score-function estimator, -mean(log_prob * advantage) (Williams 1992); gradient flows to log_prob alone."""
    return -masked_mean(log_prob * advantage, mask)


def clipped_loss(
    log_ratio: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    *,
    clip: float,
) -> Float[Tensor, ""]:
    """PPO's pessimistic surrogate (Schulman et al. 2017, eq. 7); we clip per candidate, they per time step."""
    ratio = log_ratio.exp()
    pessimistic = (ratio * advantage).minimum(ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -masked_mean(pessimistic, mask)


def approximate_kl(log_ratio: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """KL(old || new) per candidate from samples of the old policy: mean(ratio - 1 - log ratio), never negative.

    Schulman 2020, "Approximating KL divergence", the estimator k3.
    """
    return masked_mean(log_ratio.exp() - 1 - log_ratio, mask)


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean where `mask` is True; 0 with a graph if it is True nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def mean(values: Sequence[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """The mean of numbers with a graph, such as the losses of an episode's steps."""
    return torch.stack(list(values)).mean()
