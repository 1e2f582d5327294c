"""Check lists of scores and labels, and compare their positives with all other entries in chunks.

A list holds what is ranked together: all candidates of a batch, or those of one class. Letters: L lists, M entries of a
list, K columns (with which the positives are compared), R rows (the positives of a chunk, from any list).

The update of an error-driven loss is not a derivative of its value, because ranks are flat almost everywhere. So value
and gradient are both computed without a graph, in chunks that bound the memory, and then joined (`with_gradient`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MAX_PAIRS = 2**22
"""The number of pairs of a row and a column that are processed at once: 16 MiB for each intermediate result."""


@dataclass(frozen=True, kw_only=True)
class RankedLists:
    """L lists, at least in single precision even under autocast; padding is neither positive nor negative.

    `scores` keeps its graph, and is 0 on padding. `share` is the weight of one positive's error.
    """

    scores: Float[Tensor, "L M"]
    positive: Bool[Tensor, "L M"]
    negative: Bool[Tensor, "L M"]
    share: Float[Tensor, " L"]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns with which positives are compared: every entry, or all positives and a few representatives of negatives.

    `positive` and `negative` are the numbers of entries of either kind that a column represents. `entry` is the entry
    of a positive's column, and `column` is the column of an entry.
    """

    scores: Float[Tensor, "L K"]
    positive: Float[Tensor, "L K"]
    negative: Float[Tensor, "L K"]
    entry: Int[Tensor, "L K"]
    column: Int[Tensor, "L M"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A chunk of positives: each one's list, its place there, its score and its share."""

    of_list: Int[Tensor, " R"]
    entry: Int[Tensor, " R"]
    scores: Float[Tensor, "R 1"]
    share: Float[Tensor, " R"]

    def per_list(self, values: Float[Tensor, "L K"]) -> Float[Tensor, "R K"]:
        """The values of each row's list."""
        return values.expand(len(self.of_list), -1) if len(values) == 1 else values[self.of_list]

    def summed(self, values: Float[Tensor, "R K"], num_lists: int) -> Float[Tensor, "L K"]:
        """The sum of the values over the rows of each list."""
        if num_lists == 1:
            return values.sum(0, keepdim=True)
        return values.new_zeros(num_lists, values.shape[1]).index_add_(0, self.of_list, values)


def ranked_lists(
    scores: Float[Tensor, "*lists M"],
    positive: Bool[Tensor, "..."],
    mask: Bool[Tensor, "..."] | None,
    num_positives: Float[Tensor, "..."] | float | None,
) -> RankedLists:
    """The checked lists; ValueError if a shape differs from the scores', and for a score that is not finite.

    Errors are divided by `num_positives`: one number for all lists, or one for each list; by default the number of
    positives in all lists. With several processes, give the number over all of them. If some true boxes were not found,
    give the number of true boxes.
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
    """Raise ValueError unless the values, if given, have the scores' shape and device."""
    if values is not None and (values.shape != scores.shape or values.device != scores.device):
        raise ValueError(
            f"{name} must have the scores' shape {tuple(scores.shape)}, on {scores.device}; "
            f"got {tuple(values.shape)} on {values.device}"
        )


def check_finite(name: str, values: Tensor) -> None:
    """Raise ValueError if a value is NaN or infinite."""
    wrong = ~values.isfinite()
    if wrong.any():
        values, where = values.detach(), wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite; got {values[tuple(where)].item()} at {where}; leave it out by the mask"
        )


def check_delta(delta: float) -> None:
    """Raise ValueError if the width of the step is negative, infinite or not a number."""
    if not 0 <= delta < math.inf:
        raise ValueError(
            f"delta must not be negative or infinite; got {delta}; 0.5 and 1 are usual, and 0 is the exact step"
        )


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
    """All positives, in chunks of at most `max_pairs` pairs; one row may have more."""
    scores = lists.scores.detach()
    for of_list, entry in (
        chunk.unbind(1) for chunk in lists.positive.nonzero().split(max(1, max_pairs // max(1, num_columns)))
    ):
        yield Rows(of_list=of_list, entry=entry, scores=scores[of_list, entry][:, None], share=lists.share[of_list])


def step(gap: Float[Tensor, "R K"], delta: float) -> Float[Tensor, "R K"]:
    """H(x) = clip(x / (2 delta) + 1/2, 0, 1) (Chen et al. 2019); 1/2 at x = 0, also for a delta of 0."""
    if delta == 0:
        return torch.heaviside(gap, gap.new_tensor(0.5))
    return (gap / (2 * delta) + 0.5).clamp(0, 1)


def with_gradient(value: Float[Tensor, ""], *inputs: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """The value, with a graph that gives each input the gradient paired with it, in the input's shape."""
    return value + torch.stack([(gradient * (given - given.detach())).sum() for given, gradient in inputs]).sum()
