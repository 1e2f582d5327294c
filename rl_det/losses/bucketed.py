"""The AP loss and the Rank and Sort loss with negatives in buckets: far fewer pairs, and the same value.

A bucket's mean score represents all of its negatives, and they share its gradient equally (Yavuz et al. 2024, "Bucketed
Ranking-based Losses for Efficient Training of Object Detectors"). A positive is then compared with at most 3 P + 1
columns instead of M. We differ from the paper:

1. The paper's buckets lie between consecutive positives, and it first drops the negatives that are more than delta below
   the lowest positive, as no step reaches them. Within a bucket, negatives in the reach of a positive's step still mix
   with others far away, and their mean may be out of it. Our buckets also end where a positive's step ends, at delta
   above and below its score. In a bucket, each positive's step is then a straight line, so the step of the mean is the
   mean of the steps: the loss has the value of the loss without buckets, at every delta, and so have the gradients of
   the positives and of each bucket as a whole. At a delta of 0 our buckets are the paper's.
2. Ties are treated as the exact step does: at a delta of 0, negatives tied with a positive form their own bucket.
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
    """`rl_det.losses.ap.ap_loss` by buckets: the same value; above a `delta` of 0, a bucket's negatives are lowered alike."""
    check_delta(delta)
    lists = ranked_lists(scores, positive, mask, num_positives)
    return ranking_loss(lists, buckets(lists, delta), delta, max_pairs)


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
    """`rl_det.losses.rank_sort.rank_sort_loss` by buckets: the same value; above a `delta` of 0, a bucket's negatives are
    lowered alike."""
    check_delta(delta)
    lists = ranked_lists(scores, positive, mask, num_positives)
    return rank_and_sort(lists, buckets(lists, delta), missing_iou(iou, scores, lists), delta, max_pairs)


def buckets(lists: RankedLists, delta: float) -> Columns:
    """A column for each positive, from the best on, and one for each bucket of negatives.

    A negative's bucket is (positives more than delta above it) + (positives above it or at most delta below). Negatives
    share a bucket if no end of a step, which is a positive's score plus or minus delta, lies between them. At a delta of
    0, even buckets lie between positives, and odd buckets are ties. The number of a bucket rises as the score falls.
    """
    scores, width = lists.scores.detach(), int(lists.positive.sum(1).amax()) if lists.positive.numel() else 0
    ranked, order = scores.masked_fill(~lists.positive, -torch.inf).sort(dim=1, descending=True, stable=True)
    ranked, exists = ranked[:, :width], ranked[:, :width] > -torch.inf
    rising = ranked.flip(1).contiguous()
    beyond = width - torch.searchsorted(rising - delta, scores, right=True)
    reached = width - torch.searchsorted(rising + delta, scores, right=False)
    bucket = beyond + reached  # [L, M]
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
