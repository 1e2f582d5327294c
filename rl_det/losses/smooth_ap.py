"""Smooth-AP: 1 - AP with a sigmoid instead of every step, and its exact gradient."""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_det.losses.ranked_lists import MAX_PAIRS, ranked_lists, with_gradient


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

    `positive` and `mask` may have dimensions in front of those of the scores: several judgements of the same scores, such
    as right or wrong at ten IoU thresholds. The loss is that of the scores expanded to this shape, but all judgements
    share the sigmoids, so ten of them cost little more than one.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}; 0.5, in logits, is usual")
    judgements = positive.shape[: max(0, positive.ndim - scores.ndim)]
    lists = ranked_lists(scores.expand(*judgements, *scores.shape), positive, mask, num_positives)
    shape = judgements.numel(), scores.shape[:-1].numel(), scores.shape[-1]
    true, false, share = lists.positive.view(shape), lists.negative.view(shape), lists.share.reshape(shape[:2])
    kept = scores.reshape(shape[1:]).to(lists.scores.dtype).where((true | false).any(0), 0.0)
    value, gradient = kept.new_zeros(()), torch.zeros_like(kept)
    with torch.autocast(kept.device.type, enabled=False):  # matrix products as well are in single precision
        for of, entry in _rows(true.any(0), max_pairs):
            own, right = kept.detach()[of], true[:, of].permute(1, 2, 0).to(kept.dtype)
            columns = torch.cat([right, false[:, of].permute(1, 2, 0).to(kept.dtype)], 2)
            above = ((own[:, None] - own.gather(1, entry)[..., None]) / temperature).sigmoid()
            num_true, num_false = (above @ columns).chunk(2, 2)
            num_true = num_true + 0.5  # itself counts 1, and has a sigmoid of 1/2
            rank = num_true + num_false
            precision, weight = num_true / rank, share.T[of][:, None] * right.take_along_dim(entry[..., None], 1)
            value += (weight * (1 - precision)).sum()
            steepness = weight / (temperature * rank)
            fall = torch.cat([steepness * (precision - 1), steepness * precision], 2) @ columns.mT
            fall *= above.addcmul_(above, above, value=-1)
            gradient[of] += fall.sum(1)
            gradient[of] = gradient[of].scatter_add(1, entry, -fall.sum(2))
    return with_gradient(value, (kept, gradient))


def _rows(positive: Bool[Tensor, "L M"], max_pairs: int) -> Iterator[tuple[Int[Tensor, " l"], Int[Tensor, "l r"]]]:
    """All positives in blocks: some lists, and as many entries of each; of a list with fewer positives also others.

    Lists with about as many positives come together, so at most half of a block's entries are not positive. A block has
    at most `max_pairs` pairs of an entry and one of the M; but one entry may have more.
    """
    numbers, lists = positive.sum(1).sort(descending=True)
    entries = positive.sort(dim=1, descending=True, stable=True).indices
    counts, most, first = numbers.tolist(), max(1, max_pairs // max(1, positive.shape[1])), 0
    while first < len(counts) and counts[first]:
        end = first + 1
        while end < len(counts) and 2 * counts[end] > counts[first] and (end + 1 - first) * counts[first] <= most:
            end += 1
        of = lists[first:end]
        for entry in entries[of, : counts[first]].split(most, 1):
            yield of, entry
        first = end
