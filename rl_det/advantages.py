"""Rewards of several samples of one image, or credits of its candidates -> advantages that a policy gradient can use."""

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
