"""Lists to rank: random and hostile ones, what every loss can be asked, and the slow definitions that they are held against."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from rl_det.losses.alrp import alrp_loss
from rl_det.losses.ap import ap_loss
from rl_det.losses.blackbox import blackbox_ap
from rl_det.losses.bucketed import bucketed_ap_loss, bucketed_rank_sort_loss
from rl_det.losses.listwise import list_mle, list_net
from rl_det.losses.rank_sort import rank_sort_loss
from rl_det.losses.smooth_ap import smooth_ap


class Listing(NamedTuple):
    """L lists of M entries; the IoU means something at positives alone."""

    scores: Tensor
    positive: Tensor
    iou: Tensor
    mask: Tensor


Loss = Callable[..., Tensor]


def graded(loss: Loss) -> Loss:
    """ListNet and ListMLE take a relevance, which is the IoU of positives."""
    return lambda scores, positive, iou, mask, **options: loss(scores, iou * positive, mask, **options)


def labelled(loss: Loss) -> Loss:
    return lambda scores, positive, iou, mask, **options: loss(scores, positive, mask, **options)


PAIRWISE: dict[str, Loss] = {
    "ap": labelled(ap_loss),
    "smooth_ap": labelled(smooth_ap),
    "rank_sort": rank_sort_loss,
    "alrp": lambda scores, positive, iou, mask, **options: alrp_loss(scores, positive, 2 * (1 - iou), mask, **options),
    "bucketed_ap": labelled(bucketed_ap_loss),
    "bucketed_rank_sort": bucketed_rank_sort_loss,
}
"""Those that compare pairs, in chunks."""
LOSSES: dict[str, Loss] = PAIRWISE | {
    "list_net": graded(list_net),
    "list_mle": graded(list_mle),
    "blackbox": labelled(blackbox_ap),
}
"""All, as functions of scores, labels, IoUs and a mask."""
EXACT: dict[str, Loss] = {name: partial(PAIRWISE[name], delta=0.0) for name in ("ap", "rank_sort", "alrp")}


def listing(
    seed: int, num_lists: int = 3, length: int = 40, *, share: float = 0.3, levels: int | None = None
) -> Listing:
    """Random lists with padding; with `levels`, scores and IoUs have as few values, and so many ties."""
    generator = torch.Generator().manual_seed(seed)
    shape = num_lists, length
    scores, iou = 2 * torch.randn(shape, generator=generator), 0.5 + 0.5 * torch.rand(shape, generator=generator)
    if levels is not None:
        scores, iou = (scores * levels / 4).round(), (iou * levels).round() / levels
    positive = torch.rand(shape, generator=generator) < share
    return Listing(scores, positive, iou, torch.rand(shape, generator=generator) < 0.9)


def listings() -> st.SearchStrategy[Listing]:
    """All kinds: short ones and empty ones, without positives and with nothing else, with ties and without."""
    return st.builds(
        listing,
        st.integers(0, 10_000),
        st.integers(1, 3),
        st.integers(0, 25),
        share=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
        levels=st.sampled_from([None, 2, 6]),
    )


def value_and_gradient(loss: Loss, lists: Listing, **options: object) -> tuple[Tensor, Tensor]:
    scores = lists.scores.clone().requires_grad_()
    value = loss(scores, lists.positive, lists.iou, lists.mask, **options)
    (gradient,) = torch.autograd.grad(value, scores)
    return value.detach(), gradient


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float = 1e-5) -> None:
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance, check_dtype=False)


def height(gap: float, delta: float) -> float:
    """H."""
    if delta == 0:
        return 0.5 if gap == 0 else float(gap > 0)
    return min(max(gap / (2 * delta) + 0.5, 0.0), 1.0)


class Slow(NamedTuple):
    """One list's positives and negatives, by loops."""

    scores: list[float]
    iou: list[float]
    positives: list[int]
    negatives: list[int]
    delta: float

    def above(self, i: int, j: int) -> float:
        """How much j ranks above i; i itself in full."""
        return 1.0 if i == j else height(self.scores[j] - self.scores[i], self.delta)

    def num_false(self, i: int) -> float:
        return sum(self.above(i, j) for j in self.negatives)

    def rank(self, i: int) -> float:
        return self.num_false(i) + sum(self.above(i, j) for j in self.positives)


def slow_lists(lists: Listing, delta: float) -> list[Slow]:
    return [
        Slow(
            scores.tolist(),
            iou.tolist(),
            (positive & mask).nonzero().flatten().tolist(),
            (~positive & mask).nonzero().flatten().tolist(),
            delta,
        )
        for scores, positive, iou, mask in zip(*lists, strict=True)
    ]


def by_hand(lists: Listing, one: Callable[[Slow, list[float]], float], delta: float) -> tuple[Tensor, Tensor]:
    """Sum over lists of what `one` says of each and writes into its gradient, over the number of positives."""
    slow = slow_lists(lists, delta)
    gradient = [[0.0] * len(row.scores) for row in slow]
    total = sum(one(row, into) for row, into in zip(slow, gradient, strict=True))
    count = max(1, sum(len(row.positives) for row in slow))
    return torch.tensor(total / count), torch.tensor(gradient).reshape(lists.scores.shape) / count


def slow_ap(row: Slow, gradient: list[float]) -> float:
    loss = 0.0
    for i, j in itertools.product(row.positives, row.negatives):
        error = row.above(i, j) / row.rank(i)
        loss += error
        gradient[i] -= error
        gradient[j] += error
    return loss


def slow_interpolated_ap(row: Slow, gradient: list[float]) -> float:
    """As the authors' code goes: from the lowest positive up, with the highest precision so far."""
    loss, highest = 0.0, 0.0
    for i in sorted(row.positives, key=lambda i: row.scores[i]):
        precision = 1 - row.num_false(i) / row.rank(i)
        shrunk = (1 - highest) / (1 - precision) if precision < highest else 1.0
        highest = max(highest, precision)
        loss += 1 - highest
        gradient[i] -= 1 - highest
        for j in row.negatives:
            gradient[j] += shrunk * row.above(i, j) / row.rank(i)
    return loss


def slow_rank_sort(row: Slow, gradient: list[float]) -> float:
    loss = slow_ap(row, gradient)
    for i in row.positives:

        def mean_missing(of: list[int], i: int = i) -> float:
            return sum(row.above(i, j) * (1 - row.iou[j]) for j in of) / sum(row.above(i, j) for j in of)

        worse = [j for j in row.positives if row.iou[j] < row.iou[i]]
        error = mean_missing(row.positives) - mean_missing([j for j in row.positives if j not in worse])
        loss += error
        gradient[i] -= error
        weight = sum(row.above(i, j) for j in worse)
        for j in worse:
            gradient[j] += error * row.above(i, j) / weight if weight else 0.0
    return loss


def slow_alrp(row: Slow, gradient: list[float]) -> float:
    loss = 0.0
    for i in row.positives:
        false, own = row.num_false(i), 2 * (1 - row.iou[i])
        total = false + sum(row.above(i, k) * 2 * (1 - row.iou[k]) for k in row.positives)
        loss += total / row.rank(i)
        if false > 0:
            error = (total - own) / row.rank(i)
            gradient[i] -= error
            for j in row.negatives:
                gradient[j] += error * row.above(i, j) / false
    return loss


SLOW = {"ap": slow_ap, "rank_sort": slow_rank_sort, "alrp": slow_alrp}
