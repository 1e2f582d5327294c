"""Compute the advantages of a policy gradient from the rewards of an image's samples, or from candidates' credits.

A group is the K samples of one image. If all its rewards are the same, its advantages are exactly 0. Rewards count as
the same if they differ by rounding alone (`same_but_for_rounding`), as divided by their spread, or by the batch's,
rounding would be as large as any true advantage.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.errors import UserError

Advantage = Literal["counterfactual", "leave_one_out", "group"]
"""The source of a candidate's advantage: its own credit (counterfactual); its image's reward minus the mean of the
other samples of the image (leave_one_out); or its image's reward minus the mean of all samples, over their standard
deviation (group)."""

ROUNDINGS = 7
"""Rewards are the same within this many roundings of the largest of their group. For float32 these are 8e-7 of it: the
sums of a hundred equal terms, each in its own order, differ by less, and two mAPs that differ by 1e-6 by more."""
NEGLIGIBLE = 1e-12
"""Rewards are also the same within this: exact changes of mAP, which are differences of float64, differ by 1e-15 where
nothing has changed."""


def leave_one_out(reward: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Each sample's reward minus the mean of the other K - 1 samples of its image (Kool et al. 2019).

    This is unbiased if the samples are independent, as the baseline then does not depend on the sample's own action. It is
    not divided by the group's spread, which would give weight to images on which nothing matters. If all samples have the
    same reward, it is 0.
    Raises ValueError for K = 1.
    """
    num_samples = reward.shape[1]
    if num_samples < 2:
        raise ValueError(f"leave-one-out needs at least 2 samples per image; got {num_samples}; 4 is usual")
    return from_mean(reward) * num_samples / (num_samples - 1)


def group_normalised(reward: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Each sample's reward minus its image's mean, over the image's standard deviation: GRPO (Shao et al. 2024, 4.1.2).

    All images get equal weight, including those on which little can be gained. If all samples have the same reward, it
    is 0. Raises ValueError for K = 1.
    """
    if reward.shape[1] < 2:
        raise ValueError(f"a group needs at least 2 samples per image; got {reward.shape[1]}; 8 is usual")
    away = from_mean(reward)
    return away / away.std(1, keepdim=True).clamp(min=NEGLIGIBLE)


def from_mean(reward: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Each sample's reward minus the mean of its group; exactly 0 if all samples have the same reward."""
    above_least = reward - reward.amin(1, keepdim=True)  # small before the mean is taken, so that its rounding is small
    return (above_least - above_least.mean(1, keepdim=True)).masked_fill(same_but_for_rounding(reward), 0.0)


def same_but_for_rounding(reward: Float[Tensor, "B K"]) -> Bool[Tensor, "B 1"]:
    """Whether a group's rewards are all the same, within `ROUNDINGS` and `NEGLIGIBLE`."""
    least, most = reward.amin(1, keepdim=True), reward.amax(1, keepdim=True)
    rounding = ROUNDINGS * torch.finfo(reward.dtype).eps * torch.maximum(least.abs(), most.abs())
    return most - least <= rounding.clamp(min=NEGLIGIBLE)


def scaled(advantage: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The advantages over their root mean square where `mask` is True, so that small AP differences keep normal step sizes.

    There is one scale for the whole batch, so images keep their weights. All zeros stay zeros.
    """
    size = (advantage.square() * mask).sum().div(mask.sum().clamp(min=1)).sqrt()
    return advantage / size.clamp(min=NEGLIGIBLE) * mask


def factors(values: Float[Tensor, "*shape"], num_factors: int) -> tuple[Float[Tensor, "*one"], ...]:
    """The values of each independent factor of the action, split; the values themselves if there is one factor."""
    return (values,) if num_factors == 1 else values.unbind(-1)


def to_go(values: Float[Tensor, " T *shape"], gamma: float) -> Float[Tensor, " T *shape"]:
    """What is earned from each step of an episode on, a later step discounted by `gamma` for each step between."""
    sums = [values[-1]]
    for earned in values[:-1].flip(0):
        sums.append(earned + gamma * sums[-1])
    return torch.stack(sums[::-1])


def candidate_advantages(
    reward: Float[Tensor, "T B K"],
    credit: Float[Tensor, "T B K N *F"] | None,
    log_prob: Float[Tensor, "T B K N *F"],
    mask: Bool[Tensor, "T B K N"],
    advantage: Advantage,
    gamma: float = 1.0,
) -> Float[Tensor, "T B K N *F"]:
    """Advantages of this kind over the T steps of episodes, each factor `scaled` by itself.

    Rewards and credits count from a step on (`to_go`). There is no value network: the K samples of an image begin at the
    same candidates, so the other samples' mean is a baseline without a bias, and a candidate's own credit needs none,
    because it is already the difference from doing nothing. Both are exact, and a learned value would be neither.

    Raises UserError if credit is asked for, and there is none.
    """
    num_factors = 1 if log_prob.ndim == mask.ndim else log_prob.shape[-1]
    if advantage == "counterfactual":
        if credit is None:
            raise UserError(
                "a counterfactual advantage needs the credit of these rewards, and the environment gives none; "
                "take advantage='leave_one_out'"
            )
        values = to_go(credit, gamma).view_as(log_prob)
    else:
        kind = group_normalised if advantage == "group" else leave_one_out
        whole = kind(to_go(reward, gamma).flatten(0, 1)).view_as(reward)
        values = whole.view(*whole.shape, *[1] * (log_prob.ndim - 3)).expand_as(log_prob)
    each = [scaled(own, mask) for own in factors(values, num_factors)]
    return torch.stack(each, -1).view_as(log_prob)
