"""1 - AP at the exact ranks, with the gradient of blackbox differentiation."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ranked_lists import ranked_lists, with_gradient


def blackbox_ap(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    margin: float = 1.0,
    interpolation: float = 4.0,
    num_positives: Float[Tensor, "..."] | float | None = None,
) -> Float[Tensor, ""]:
    """1 - AP by blackbox differentiation of the ranking (Vlastelica et al. 2020; Rolinek et al. 2020).

    Ranking is an argmin over permutations. With a loss of the ranks, and r the ranks as shares of the list's length:

        gradient of the scores = (r(scores + interpolation * dloss / dr) - r(scores)) / interpolation

    This is the gradient of a piecewise linear function that agrees with the loss at every ranking; it sums to 0. The
    loss is the mean over positives of 1 - (rank among positives) / rank. The rank among positives is kept fixed, as in
    the authors' code. Before ranking, positives are lowered and negatives raised by half the `margin`, in logits, so
    that the gradient does not vanish as soon as the order is right. Ties go to the lower index. Without positives it is
    0 with a graph. No pairs are formed, so memory is linear. `num_positives`: see `ranked_lists.ranked_lists`.
    """
    if not interpolation > 0:
        raise ValueError(f"interpolation must be positive; got {interpolation}; 4, in logits, is usual")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin must not be negative or infinite; got {margin}; 1, in logits, is usual")
    lists = ranked_lists(scores, positive, mask, num_positives)
    real = lists.positive | lists.negative
    true = lists.positive.to(lists.scores.dtype)
    length = real.sum(1, keepdim=True).clamp(min=1)
    hardened = lists.scores.detach() + margin * (0.5 - true)
    rank = ranks(hardened, real)
    among_positives = ranks(hardened, lists.positive)
    precision = among_positives / rank * true
    value = (lists.share[:, None] * (true - precision)).sum()
    slope = precision * length / rank  # of one positive's error, by its rank as a share
    pulled = ranks(hardened + interpolation * slope, real)
    gradient = (pulled - rank) / (length * interpolation) * real
    return with_gradient(value, (lists.scores, lists.share[:, None] * gradient))


def ranks(scores: Float[Tensor, "L M"], real: Bool[Tensor, "L M"]) -> Float[Tensor, "L M"]:
    """The ranks in each list, from 1 for the best; padding ranks after all real entries."""
    order = scores.masked_fill(~real, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return (order.argsort(dim=1) + 1).to(scores.dtype)
