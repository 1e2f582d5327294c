"""Rewards of several samples of one image, or credits of its candidates -> advantages that a policy gradient can use."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def leave_one_out(reward: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Each sample's reward against the mean of the other K - 1 samples of its image (Kool et al. 2019).

    Unbiased, as the baseline does not depend on the sample's own action. Not divided by the group's spread, which would
    favour images on which nothing matters. Raises ValueError for K = 1.
    """
    num_samples = reward.shape[1]
    if num_samples < 2:
        raise ValueError(f"leave-one-out needs at least 2 samples per image; got {num_samples}; 4 is usual")
    return (reward - reward.mean(1, keepdim=True)) * num_samples / (num_samples - 1)


def scaled(advantage: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The advantages over their root mean square where `mask` is True: AP deltas are tiny, and step sizes should not be.

    One scale for the whole batch, so that images keep their weights; all zeros stay zeros.
    """
    size = (advantage.square() * mask).sum().div(mask.sum().clamp(min=1)).sqrt()
    return advantage / size.clamp(min=1e-12) * mask


def factors(values: Float[Tensor, "B K N *F"]) -> tuple[Float[Tensor, "B K N"], ...]:
    """Those of each independent factor by which candidates act; of the only one, where there is no dimension for them."""
    return (values,) if values.ndim == 3 else values.unbind(-1)


def candidate_advantages(
    reward: Float[Tensor, "B K"],
    credit: Float[Tensor, "BK N *F"] | None,
    log_prob: Float[Tensor, "B K N *F"],
    mask: Bool[Tensor, "B K N"],
) -> Float[Tensor, "B K N *F"]:
    """Each candidate's own credit where there is one, else its image's leave-one-out reward; each factor `scaled` by itself."""
    if credit is None:
        whole = leave_one_out(reward)
        advantage = whole.view(*whole.shape, *[1] * (log_prob.ndim - 2)).expand_as(log_prob)
    else:
        advantage = credit.view_as(log_prob)
    return torch.stack([scaled(own, mask) for own in factors(advantage)], -1).view_as(log_prob)
