"""Smooth-AP: 1 - AP with a sigmoid instead of every step, and its exact gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ranked_lists import MAX_PAIRS, every_entry, ranked_lists, rows, with_gradient


def smooth_ap(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    temperature: float = 0.5,
    num_positives: Float[Tensor, "..."] | float | None = None,
    max_pairs: int = MAX_PAIRS,
) -> Float[Tensor, ""]:
    """1 - smooth-AP (Brown et al. 2020), for each list by itself; in [0, 1], and 0 at best.

    With G_ij the sigmoid of (s_j - s_i) / temperature:

        loss = mean over i in P of 1 - (1 + sum over P of G_ij) / (1 + sum over P and N of G_ij),  j != i

    It tends to 1 - the mean precision at the positives as the temperature falls. The gradient equals autograd's, but is
    written out, so no pairs are kept. Without positives it is 0 with a graph. `num_positives`: see
    `ranked_lists.ranked_lists`.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}; 0.5, in logits, is usual")
    lists = ranked_lists(scores, positive, mask, num_positives)
    columns = every_entry(lists)
    value, gradient = lists.scores.new_zeros(()), torch.zeros_like(columns.scores)
    for chunk in rows(lists, columns.scores.shape[1], max_pairs):
        above = ((chunk.per_list(columns.scores) - chunk.scores) / temperature).sigmoid()
        true, false = chunk.per_list(columns.positive), chunk.per_list(columns.negative)
        num_true = (above * true).sum(1) + 0.5  # itself counts 1, and has a sigmoid of 1/2
        rank = num_true + (above * false).sum(1)
        precision = num_true / rank
        value += (chunk.share * (1 - precision)).sum()
        steepness = (chunk.share / (temperature * rank))[:, None]
        fall = above * (1 - above) * steepness * (precision[:, None] * (true + false) - true)
        gradient += chunk.summed(fall, len(lists.scores))
        gradient[chunk.of_list, chunk.entry] -= fall.sum(1)
    return with_gradient(value, (lists.scores, gradient))
