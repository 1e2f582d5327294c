"""Scores and labels of one list or of many -> checked lists, and their positives compared with all else, chunk by chunk.

A list is what is ranked together: all candidates of a batch, or those of one class. Letters: L lists, M entries of a list,
K columns, with which the positives are compared, and R rows, which are the positives of a chunk, of whatever list.

What an error-driven loss does to the scores is no derivative of its value, as ranks are flat almost everywhere. So value and
gradient are both computed without a graph, in chunks that bound the memory, and then joined (`with_gradient`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_PAIRS = 2**22
"""How many pairs of a row and a column are worked on at once: 16 MiB for each intermediate result."""


@dataclass(frozen=True, kw_only=True)
class RankedLists:
    """L lists, in single precision at least, whatever autocast says; padding is neither positive nor negative.

    `scores` has its graph, and 0 on padding. `share` is what the error of one positive weighs.
    """

    scores: Float[Tensor, "L M"]
    positive: Bool[Tensor, "L M"]
    negative: Bool[Tensor, "L M"]
    share: Float[Tensor, " L"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What positives are compared with: every entry, or all positives and a few stand-ins for the negatives.

    `positive` and `negative` say how many entries of either kind a column stands for. `entry` is the one that a column of a
    positive stands for, `column` the one that stands for an entry.
    """

    scores: Float[Tensor, "L K"]
    positive: Float[Tensor, "L K"]
    negative: Float[Tensor, "L K"]
    entry: Int[Tensor, "L K"]
    column: Int[Tensor, "L M"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some of the positives: each one's list, its place there, its score and its share."""

    of_list: Int[Tensor, " R"]
    entry: Int[Tensor, " R"]
    scores: Float[Tensor, "R 1"]
    share: Float[Tensor, " R"]

    def per_list(self, values: Float[Tensor, "L K"]) -> Float[Tensor, "R K"]:
        """Each row's list's values."""
        return values.expand(len(self.of_list), -1) if len(values) == 1 else values[self.of_list]

    def summed(self, values: Float[Tensor, "R K"], num_lists: int) -> Float[Tensor, "L K"]:
        """Over the rows of each list."""
        if num_lists == 1:
            return values.sum(0, keepdim=True)
        return values.new_zeros(num_lists, values.shape[1]).index_add_(0, self.of_list, values)


def ranked_lists(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None,
    num_positives: Float[Tensor, "..."] | float | None,
) -> RankedLists:
    """The lists, checked; ValueError for a shape that is not the scores', and for a score that is not finite.

    By `num_positives` errors are divided: a number for all lists together, or one for each; by default the positives in all
    lists. Give the number over all processes where there are several, or that of the true boxes where some were not found.
    """
    for name, values in (("positive", positive), ("mask", mask)):
        check_shape(name, values, scores)
    real = torch.ones_like(positive) if mask is None else mask
    kept = scores.to(torch.promote_types(scores.dtype, torch.float32)).where(real, 0.0)
    check_finite("scores", kept)
    found = positive & real
    share = 1 / torch.as_tensor(found.sum() if num_positives is None else num_positives).to(kept).clamp(min=1)
    if share.dim() and share.shape != scores.shape[:-1]:
        raise ValueError(
            f"num_positives must be one number, or one for each list, of shape {tuple(scores.shape[:-1])}; "
            f"got shape {tuple(share.shape)}"
        )
    shape = -1, scores.shape[-1]
    num_lists = scores.shape[:-1].numel()
    return RankedLists(
        scores=kept.reshape(num_lists, shape[1]),
        positive=found.reshape(num_lists, shape[1]),
        negative=(real & ~positive).reshape(num_lists, shape[1]),
        share=share.flatten().expand(num_lists),
    )


def check_shape(name: str, values: Tensor | None, scores: Tensor) -> None:
    """ValueError unless the values, if there are any, have the scores' shape and device."""
    if values is not None and (values.shape != scores.shape or values.device != scores.device):
        raise ValueError(
            f"{name} must have the scores' shape {tuple(scores.shape)}, on {scores.device}; "
            f"got {tuple(values.shape)} on {values.device}"
        )


def check_finite(name: str, values: Tensor) -> None:
    """ValueError where a value is NaN or infinite."""
    wrong = ~values.isfinite()
    if wrong.any():
        values, where = values.detach(), wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite; got {values[tuple(where)].item()} at {where}; leave it out by the mask"
        )


def check_delta(delta: float) -> None:
    """ValueError for a width of the step that is negative, or no number."""
    if not delta >= 0:
        raise ValueError(f"delta must not be negative; got {delta}; 0.5 and 1 are usual, and 0 is the exact step")


def every_entry(lists: RankedLists) -> Columns:
    """A column for each entry."""
    entries = torch.arange(lists.scores.shape[1], device=lists.scores.device).expand_as(lists.positive)
    return Columns(
        scores=lists.scores.detach(),
        positive=lists.positive.to(lists.scores.dtype),
        negative=lists.negative.to(lists.scores.dtype),
        entry=entries,
        column=entries,
    )


def rows(lists: RankedLists, num_columns: int, max_pairs: int) -> Iterator[Rows]:
    """All positives, in chunks of `max_pairs` pairs at most, if one row has no more."""
    scores = lists.scores.detach()
    for of_list, entry in (
        chunk.unbind(1) for chunk in lists.positive.nonzero().split(max(1, max_pairs // max(1, num_columns)))
    ):
        yield Rows(of_list=of_list, entry=entry, scores=scores[of_list, entry][:, None], share=lists.share[of_list])


def step(gap: Float[Tensor, "R K"], delta: float) -> Float[Tensor, "R K"]:
    """H(x) = clip(x / (2 delta) + 1/2, 0, 1) (Chen et al. 2019); 1/2 where x is 0, for a delta of 0 too."""
    if delta == 0:
        return torch.heaviside(gap, gap.new_tensor(0.5))
    return (gap / (2 * delta) + 0.5).clamp(0, 1)


def with_gradient(value: Float[Tensor, ""], *inputs: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """The value, with a graph in which each input has the gradient that comes with it, in its shape."""
    return value + torch.stack([(gradient * (given - given.detach())).sum() for given, gradient in inputs]).sum()
