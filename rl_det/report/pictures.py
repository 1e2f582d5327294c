"""Draw images and boxes on matplotlib's axes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.metrics.outcomes import verdicts
from rl_det.text import printable
from rl_det.types import Detections, Target


def draw_image(axes: Axes, image: Float[Tensor, "3 H W"], title: str = "") -> None:
    """Draw an image with values in [0, 1], without ticks."""
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(force=True))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(printable(title), fontsize=9)


def draw_boxes(
    axes: Axes,
    boxes: Float[Tensor, "N 4"],
    colours: Sequence[object] | str,
    *,
    texts: Sequence[str] = (),
    width: float = 1.2,
) -> None:
    """Draw boxes in one colour, or each in its own; `texts`, if given, are written above them."""
    each = [colours] * len(boxes) if isinstance(colours, str) else colours
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5), right - left, bottom - top,
                fill=False, edgecolor=each[number], linewidth=width,
            )
        )  # fmt: skip
        if texts:
            axes.text(left, top - 1, printable(texts[number]), color=each[number], fontsize=7, va="bottom")


class Outcome(NamedTuple):
    """The detections of an image that are displayed and lie in no crowd, which are right, and which true boxes are missed."""

    kept: Detections
    right: Bool[Tensor, " N"]
    missed: Bool[Tensor, " G"]

    @property
    def counts(self) -> str:
        """How many are right, wrong and missed, in words."""
        return f"{int(self.right.sum())} right, {int((~self.right).sum())} wrong, {int(self.missed.sum())} missed"


def shown(target: Target, found: Detections, num_classes: int, threshold: float) -> Outcome:
    """The detections of at least `threshold`, matched as in COCO at IoU 0.5, all of them; a crowd is never missed."""
    chosen = found["scores"] >= threshold
    kept = Detections(boxes=found["boxes"][chosen], labels=found["labels"][chosen], scores=found["scores"][chosen])
    of_all = verdicts(pad_detections([kept]), pad_targets([target]), num_classes=num_classes)
    correct, ignored, truth = (torch.from_numpy(part[0]) for part in (of_all.correct, of_all.ignored, of_all.truth))
    missed = ~target.iscrowd
    missed[truth[correct]] = False
    counts = ~ignored
    counted = Detections(boxes=kept["boxes"][counts], labels=kept["labels"][counts], scores=kept["scores"][counts])
    return Outcome(counted, correct[counts], missed)
