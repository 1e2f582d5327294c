"""The AP loss: the error of a positive is the share of negatives among the entries that rank above it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ranked_lists import (
    MAX_PAIRS,
    Columns,
    RankedLists,
    check_delta,
    every_entry,
    ranked_lists,
    rows,
    step,
    with_gradient,
)


def ap_loss(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    delta: float = 1.0,
    num_positives: Float[Tensor, "..."] | float | None = None,
    max_pairs: int = MAX_PAIRS,
) -> Float[Tensor, ""]:
    """The AP loss (Chen et al. 2019), for each list by itself; 0 at best.

    With x_ij = s_j - s_i and H of `ranked_lists.step`:

        L_ij = H(x_ij) / (1 + sum over k != i of H(x_ik))    loss = sum over i in P, j in N of L_ij / |P|

    The error itself is the update: s_i is raised by the sum of its L_ij, and s_j is lowered by the sum of its L_ij. At
    a `delta` of 0 the loss is 1 - the mean precision at the positives. Without positives it is 0 with a graph.
    `num_positives`: see `ranked_lists.ranked_lists`.
    """
    check_delta(delta)
    lists = ranked_lists(scores, positive, mask, num_positives)
    return ranking_loss(lists, every_entry(lists), delta, max_pairs)


def ranking_loss(lists: RankedLists, columns: Columns, delta: float, max_pairs: int) -> Float[Tensor, ""]:
    """The AP loss of positives that are compared with these columns."""
    value, raised = lists.scores.new_zeros(()), torch.zeros_like(lists.scores)
    lowered = torch.zeros_like(columns.scores)
    for chunk in rows(lists, columns.scores.shape[1], max_pairs):
        above = step(chunk.per_list(columns.scores) - chunk.scores, delta)
        num_false = (above * chunk.per_list(columns.negative)).sum(1)
        rank = num_false + (above * chunk.per_list(columns.positive)).sum(1) + 0.5  # itself counts 1, and has H = 1/2
        error = chunk.share * num_false / rank
        value += error.sum()
        raised[chunk.of_list, chunk.entry] = error
        lowered += chunk.summed(above * (chunk.share / rank)[:, None], len(lists.scores))
    return with_gradient(value, (lists.scores, lowered.gather(1, columns.column) * lists.negative - raised))
