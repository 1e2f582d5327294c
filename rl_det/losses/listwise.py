"""ListNet and ListMLE: the likelihood of the right ranking under a Plackett-Luce distribution."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl_det.losses.ranked_lists import RankedLists, check_finite, check_shape, ranked_lists


def list_net(
    scores: Float[Tensor, "*lists M"],
    relevance: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    temperature: float = 1.0,
    num_positives: Float[Tensor, "..."] | float | None = None,
) -> Float[Tensor, ""]:
    """ListNet (Cao et al. 2007): the cross-entropy of the target and the present probabilities of ranking first.

    An entry's target probability is its share of the list's total relevance. The paper takes exp(relevance) instead;
    then hundreds of entries without relevance would hold nearly all of the probability. An entry's present probability
    is the softmax of scores / temperature. A list is weighted by its number of entries with relevance above 0; without
    any, it is 0 with a graph. `num_positives`: see `ranked_lists.ranked_lists`. The gradient is autograd's.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}; 1 is usual")
    lists, wanted = graded_lists(scores, relevance, mask, num_positives)
    real = lists.positive | lists.negative
    log_chance = (lists.scores / temperature).masked_fill(~real, -torch.inf).log_softmax(1).where(real, 0.0)
    target = wanted / wanted.sum(1, keepdim=True).clamp(min=torch.finfo(wanted.dtype).tiny)
    weight = lists.share * lists.positive.sum(1)
    return -(weight[:, None] * target * log_chance).sum() + 0.0 * lists.scores.sum()


def list_mle(
    scores: Float[Tensor, "*lists M"],
    relevance: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    num_positives: Float[Tensor, "..."] | float | None = None,
) -> Float[Tensor, ""]:
    """ListMLE (Xia et al. 2008) for the top: -log of the probability that the relevant entries come first, in order.

        loss = sum over the relevant k, by falling relevance, of log(sum over j from k on of exp(s_j)) - s_k,   over |P|

    The order of entries without relevance has no meaning and is left out (Xia et al. 2009, top-k). Entries of equal
    relevance are ordered by their present scores. Without relevant entries it is 0 with a graph. `num_positives`: see
    `ranked_lists.ranked_lists`. The gradient is autograd's.
    """
    lists, wanted = graded_lists(scores, relevance, mask, num_positives)
    real = lists.positive | lists.negative
    by_score = lists.scores.detach().argsort(dim=1, descending=True, stable=True)
    graded = wanted.masked_fill(~real, -1.0).gather(1, by_score)
    order = by_score.gather(1, graded.argsort(dim=1, descending=True, stable=True))
    lowest = torch.finfo(lists.scores.dtype).min
    ranked = lists.scores.where(real, lowest).gather(1, order)
    from_here = ranked.flip(1).logcumsumexp(1).flip(1)
    surprise = (from_here - ranked).where(lists.positive.gather(1, order), 0.0)
    return (lists.share[:, None] * surprise).sum() + 0.0 * lists.scores.sum()


def graded_lists(
    scores: Tensor, relevance: Tensor, mask: Tensor | None, num_positives: Tensor | float | None
) -> tuple[RankedLists, Float[Tensor, "L M"]]:
    """The lists, whose positives are the entries with relevance, and the relevance; ValueError for a negative one."""
    check_shape("relevance", relevance, scores)
    lists = ranked_lists(scores, relevance > 0, mask, num_positives)
    real = lists.positive | lists.negative
    wanted = relevance.detach().to(lists.scores.dtype).reshape(lists.scores.shape).where(real, 0.0)
    check_finite("relevance", wanted)
    if (wanted < 0).any():
        raise ValueError(f"relevance must not be negative; got {float(wanted.min())}; an IoU, or 0, is usual")
    return lists, wanted
