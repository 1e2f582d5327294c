"""The Rank and Sort loss: positives rank above negatives, and better localised positives above worse ones."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ranked_lists import (
    MAX_PAIRS,
    Columns,
    RankedLists,
    check_delta,
    check_finite,
    check_shape,
    every_entry,
    ranked_lists,
    rows,
    step,
    with_gradient,
)


def rank_sort_loss(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    iou: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    delta: float = 0.5,
    num_positives: Float[Tensor, "..."] | float | None = None,
    max_pairs: int = MAX_PAIRS,
) -> Float[Tensor, ""]:
    """The Rank and Sort loss (Oksuz et al. 2021, eq. 7 and 8), for each list by itself; 0 at best.

    For each positive i, with H of `ranked_lists.step`, y the IoU with the true box, and means weighted by H:

        ranking error = FP_i / rank_i                                                           target 0
        sorting error = mean of 1 - y_j over the positives above i and i itself      target: those with y_j >= y_i alone

    The ranking error raises s_i and lowers the negatives above it. The sorting error raises s_i and lowers the
    positives above it that have less IoU. Each is lowered by its share of H. A positive counts 1 in its own rank, as in
    the AP loss; the authors' code counts it by H(0) = 1/2. Only the positives' IoU is used, and it gets no gradient.
    Without positives it is 0 with a graph. `num_positives`: see `ranked_lists.ranked_lists`.
    """
    check_delta(delta)
    lists = ranked_lists(scores, positive, mask, num_positives)
    return rank_and_sort(lists, every_entry(lists), missing_iou(iou, scores, lists), delta, max_pairs)


def missing_iou(iou: Tensor, scores: Tensor, lists: RankedLists) -> Float[Tensor, "L M"]:
    """1 - IoU of the positives, checked; 0 elsewhere."""
    check_shape("iou", iou, scores)
    kept = 1 - iou.detach().to(lists.scores.dtype).reshape(lists.scores.shape)
    missing = kept.where(lists.positive, 0.0)
    check_finite("iou", missing)
    return missing


def rank_and_sort(
    lists: RankedLists, columns: Columns, missing: Float[Tensor, "L M"], delta: float, max_pairs: int
) -> Float[Tensor, ""]:
    """The Rank and Sort loss of positives that are compared with these columns; `missing` is 1 - IoU."""
    value, raised = lists.scores.new_zeros(()), torch.zeros_like(lists.scores)
    by_ranking, by_sorting = torch.zeros_like(columns.scores), torch.zeros_like(columns.scores)
    missing_there = missing.gather(1, columns.entry)
    for chunk in rows(lists, columns.scores.shape[1], max_pairs):
        above = step(chunk.per_list(columns.scores) - chunk.scores, delta)
        num_false = (above * chunk.per_list(columns.negative)).sum(1)
        true, own = above * chunk.per_list(columns.positive), missing[chunk.of_list, chunk.entry]
        theirs = chunk.per_list(missing_there)
        worse = true * (theirs > own[:, None])
        num_true, num_worse = true.sum(1) + 0.5, worse.sum(1)  # itself counts 1, and has H = 1/2
        missed, missed_by_worse = (true * theirs).sum(1) + 0.5 * own, (worse * theirs).sum(1)
        rank = num_true + num_false
        sorting = (missed / num_true - (missed - missed_by_worse) / (num_true - num_worse)).clamp(min=0)
        error = chunk.share * (num_false / rank + sorting)
        value += error.sum()
        raised[chunk.of_list, chunk.entry] = error
        by_ranking += chunk.summed(above * (chunk.share / rank)[:, None], len(lists.scores))
        blame = chunk.share * sorting / num_worse.clamp(min=torch.finfo(above.dtype).tiny)
        by_sorting += chunk.summed(worse * blame[:, None], len(lists.scores))
    lowered = by_ranking.gather(1, columns.column) * lists.negative
    lowered += by_sorting.gather(1, columns.column) * lists.positive
    return with_gradient(value, (lists.scores, lowered - raised))
