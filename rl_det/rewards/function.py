"""A reward by a plain Python function of an image's detections and true boxes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.errors import UserError
from rl_det.rewards.edits import Edits
from rl_det.types import Detections, Target

DetectionsFunction = Callable[[Detections, Target], float]
"""(an image's detections, its true boxes) -> their value."""
AT_ONCE = 1024
"""Edits whose detections are laid out for the function at a time."""


@dataclass(frozen=True)
class FunctionValue:
    """The value of an image's detections by a plain function, for `Worth`.

    The function gets the detections that NMS leaves, as torchvision's dictionary on the CPU ("boxes" [M, 4] in pixels,
    "labels" [M], "scores" [M] as probabilities, best first, no threshold), and the image's `Target`, whose `image_id` is -1,
    as a pool does not know it. The value must follow from these alone, as the function is called once for equal detections
    of an image: once for each image and sample, and for credit once more for each candidate whose action changes what NMS
    leaves. So it must be quick; docs/environments.md has measured numbers. It is called in the thread that steps the
    environment, one call after another: plain Python would gain nothing by threads, and a user's function need not be fit
    for them, nor for other processes.
    """

    function: DetectionsFunction

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UserError(f"function must be a function (detections, target) -> number; got {self.function!r}")

    def __call__(self, edits: Edits) -> Float64[np.ndarray, " R"]:
        """The value of each edit. Raises UserError if the function returns something else than a number."""
        images, targets = edits.images.tolist(), targets_of(edits.pool.truths)
        values: Float64[np.ndarray, " R"] = np.empty(len(images))
        known: dict[tuple[Any, ...], float] = {}
        for rows in np.split(np.arange(len(images)), range(AT_ONCE, len(images), AT_ONCE)):
            batch = rows_of(edits.detections[rows], logits=edits.pool.scores_are_logits)
            for row, found in zip(rows.tolist(), batch, strict=True):
                seen = images[row], *(part.numpy().tobytes() for part in found.values())  # type: ignore[attr-defined]
                if seen not in known:
                    known[seen] = number_of(self.function(found, _copied(targets[images[row]])))
                values[row] = known[seen]
        return values


def _copied(target: Target) -> Target:
    """The function may change its target, as to turn boxes into another format, and the pool's truths stay."""
    parts = {name: getattr(target, name).clone() for name in ("boxes", "labels", "area", "iscrowd")}
    return replace(target, **parts)


def number_of(returned: Any) -> float:
    """What a function returned, as a number; a tensor or an array of one number is one, too.

    Infinity becomes NaN, which an environment refuses with the image's name; training then skips the update.
    """
    one = returned
    if isinstance(returned, Tensor | np.ndarray):
        one = returned.item() if np.prod(returned.shape) == 1 else None
    if not isinstance(one, Real):
        told = " ".join(repr(returned).split())
        raise UserError(f"a reward must be a number; the function returned {told[:80]}")
    return float(one) if np.isfinite(float(one)) else float("nan")


def rows_of(batch: DetectionBatch, *, logits: bool) -> list[Detections]:
    """The detections of each image as torchvision's dictionary, best score first; scores become probabilities."""
    counts = batch.mask.sum(1).tolist()
    order = np.argsort(np.where(batch.mask, -batch.scores, np.inf), 1, kind="stable")[:, : max(counts, default=0)]
    rows = np.arange(len(order))[:, None]
    boxes, labels = torch.from_numpy(batch.boxes[rows, order]), torch.from_numpy(batch.labels[rows, order])
    ranked = torch.from_numpy(batch.scores[rows, order])
    scores = (ranked.sigmoid() if logits else ranked).float()
    return [
        Detections(boxes=boxes[row, :count], labels=labels[row, :count], scores=scores[row, :count])
        for row, count in enumerate(counts)
    ]


def targets_of(truths: TruthBatch) -> list[Target]:
    """Each image's target; `image_id` is -1, as a pool does not know it."""
    parts = {
        name: torch.from_numpy(np.asarray(getattr(truths, name))) for name in ("boxes", "labels", "area", "iscrowd")
    }
    counts = truths.mask.sum(1).tolist()
    return [
        Target(**{name: values[image, :count] for name, values in parts.items()}, image_id=-1)
        for image, count in enumerate(counts)
    ]
