"""The AP loss: the error of a positive is the share of negatives among the entries that rank above it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ranked_lists import (
    MAX_PAIRS,
    Columns,
    RankedLists,
    Rows,
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
    interpolated: bool = False,
    max_pairs: int = MAX_PAIRS,
) -> Float[Tensor, ""]:
    """The AP loss (Chen et al. 2019), for each list by itself; 0 at best.

    With x_ij = s_j - s_i and H of `ranked_lists.step`:

        L_ij = H(x_ij) / (1 + sum over k != i of H(x_ik))    loss = sum over i in P, j in N of L_ij / |P|

    The error itself is the update: s_i is raised by the sum of its L_ij, and s_j is lowered by the sum of its L_ij. At
    a `delta` of 0 the loss is 1 - the mean precision at the positives. Without positives it is 0 with a graph.
    `num_positives`: see `ranked_lists.ranked_lists`.

    The authors' code has the interpolated precision instead, as COCO's AP has: a positive's precision is the highest of
    its own and of all positives with a lower score, and its L_ij shrink by the same factor as its error. We do so only
    if `interpolated` is set.
    """
    check_delta(delta)
    lists = ranked_lists(scores, positive, mask, num_positives)
    return ranking_loss(lists, every_entry(lists), delta, max_pairs, interpolated=interpolated)


def ranking_loss(
    lists: RankedLists, columns: Columns, delta: float, max_pairs: int, *, interpolated: bool = False
) -> Float[Tensor, ""]:
    """The AP loss of positives that are compared with these columns."""
    value, raised = lists.scores.new_zeros(()), torch.zeros_like(lists.scores)
    lowered = torch.zeros_like(columns.scores)
    remaining = remaining_errors(lists, columns, delta, max_pairs) if interpolated else None
    for chunk in rows(lists, columns.scores.shape[1], max_pairs):
        above, num_false, rank = ranks(chunk, columns, delta)
        share = chunk.share if remaining is None else chunk.share * remaining[chunk.of_list, chunk.entry]
        error = share * num_false / rank
        value += error.sum()
        raised[chunk.of_list, chunk.entry] = error
        lowered += chunk.summed(above * (share / rank)[:, None], len(lists.scores))
    return with_gradient(value, (lists.scores, lowered.gather(1, columns.column) * lists.negative - raised))


def ranks(
    chunk: Rows, columns: Columns, delta: float
) -> tuple[Float[Tensor, "R K"], Float[Tensor, " R"], Float[Tensor, " R"]]:
    """How far each column is above each positive of the chunk, its number of negatives above, and its rank."""
    above = step(chunk.per_list(columns.scores) - chunk.scores, delta)
    num_false = (above * chunk.per_list(columns.negative)).sum(1)
    rank = num_false + (above * chunk.per_list(columns.positive)).sum(1) + 0.5  # itself counts 1, and has H = 1/2
    return above, num_false, rank


def remaining_errors(lists: RankedLists, columns: Columns, delta: float, max_pairs: int) -> Float[Tensor, "L M"]:
    """The share of each positive's error that is left if precision is interpolated; 1 elsewhere."""
    errors = torch.zeros_like(lists.scores)
    for chunk in rows(lists, columns.scores.shape[1], max_pairs):
        _, num_false, rank = ranks(chunk, columns, delta)
        errors[chunk.of_list, chunk.entry] = num_false / rank
    if not errors.shape[1]:
        return errors
    rising = lists.scores.detach().masked_fill(~lists.positive, torch.inf).argsort(dim=1)  # positives come first
    least = errors.gather(1, rising).cummin(1).values
    return (torch.empty_like(errors).scatter(1, rising, least) / errors).where(errors > 0, 1.0)
