"""The AP loss and the Rank and Sort loss with negatives in buckets: far fewer pairs, and exact at delta 0.

The negatives between two consecutive positives form one bucket, and their mean score represents all of them (Yavuz et
al. 2024, "Bucketed Ranking-based Losses for Efficient Training of Object Detectors"). A positive is then compared with
at most 3 P + 1 columns instead of M. At a delta of 0 this is exact, because all negatives of a bucket lie on the same
side of a positive as their mean. Unlike the paper, we also treat ties as the exact step does: negatives tied with a
positive form their own bucket.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ap import ranking_loss
from rl_det.losses.rank_sort import missing_iou, rank_and_sort
from rl_det.losses.ranked_lists import MAX_PAIRS, Columns, RankedLists, check_delta, ranked_lists


def bucketed_ap_loss(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    delta: float = 1.0,
    num_positives: Float[Tensor, "..."] | float | None = None,
    max_pairs: int = MAX_PAIRS,
) -> Float[Tensor, ""]:
    """`rl_det.losses.ap.ap_loss` by buckets: exact at a `delta` of 0, an approximation above."""
    check_delta(delta)
    lists = ranked_lists(scores, positive, mask, num_positives)
    return ranking_loss(lists, buckets(lists), delta, max_pairs)


def bucketed_rank_sort_loss(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    iou: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    delta: float = 0.5,
    num_positives: Float[Tensor, "..."] | float | None = None,
    max_pairs: int = MAX_PAIRS,
) -> Float[Tensor, ""]:
    """`rl_det.losses.rank_sort.rank_sort_loss` by buckets: exact at a `delta` of 0, an approximation above."""
    check_delta(delta)
    lists = ranked_lists(scores, positive, mask, num_positives)
    return rank_and_sort(lists, buckets(lists), missing_iou(iou, scores, lists), delta, max_pairs)


def buckets(lists: RankedLists) -> Columns:
    """A column for each positive, from the best on, and one for each bucket of negatives.

    A negative's bucket is (positives above it) + (positives above it or tied with it). Even buckets lie between
    positives, odd buckets are ties. The number of a bucket rises as the score falls.
    """
    scores, width = lists.scores.detach(), int(lists.positive.sum(1).amax()) if lists.positive.numel() else 0
    ranked, order = scores.masked_fill(~lists.positive, -torch.inf).sort(dim=1, descending=True, stable=True)
    ranked, exists = ranked[:, :width], ranked[:, :width] > -torch.inf
    rising = ranked.flip(1).contiguous()
    above, not_below = (width - torch.searchsorted(rising, scores, right=right) for right in (True, False))
    bucket = above + not_below  # [L, M]
    num_buckets = 2 * width + 1 if scores.shape[1] else 0
    means, count = bucket_means(scores, bucket, lists.negative, num_buckets)
    empty = torch.zeros_like(count)
    return Columns(
        scores=torch.cat([ranked.where(exists, 0.0), means], 1),
        positive=torch.cat([exists.to(scores.dtype), empty], 1),
        negative=torch.cat([torch.zeros_like(ranked), count], 1),
        entry=torch.cat([order[:, :width], empty.long()], 1),
        column=torch.where(lists.positive, order.argsort(dim=1), width + bucket),
    )


def bucket_means(
    scores: Float[Tensor, "L M"], bucket: Tensor, negative: Bool[Tensor, "L M"], num_buckets: int
) -> tuple[Float[Tensor, "L Q"], Float[Tensor, "L Q"]]:
    """The mean score of each bucket's negatives, never rounded out of the bucket, and their number; 0 if it is empty."""
    nothing = scores.new_zeros(len(scores), num_buckets)
    count = nothing.scatter_add(1, bucket, negative.to(scores.dtype))
    low = (nothing + torch.inf).scatter_reduce(1, bucket, scores.masked_fill(~negative, torch.inf), "amin")
    high = (nothing - torch.inf).scatter_reduce(1, bucket, scores.masked_fill(~negative, -torch.inf), "amax")
    low = low.where(count > 0, 0.0)
    excess = nothing.scatter_add(1, bucket, (scores - low.gather(1, bucket)).where(negative, 0.0))
    means = torch.minimum(low + excess / count.clamp(min=1), high).where(count > 0, 0.0)
    return means, count
