"""Draw images and boxes on matplotlib's axes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.ops import box_iou

from rl_det.ap.matching import match
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.types import Detections, Sample, Target


def draw_image(axes: Axes, image: Float[Tensor, "3 H W"], title: str = "") -> None:
    """Draw an image with values in [0, 1], without ticks."""
    axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(force=True))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9)


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
            axes.text(left, top - 1, texts[number], color=each[number], fontsize=7, va="bottom")


class Outcome(NamedTuple):
    """The detections of an image that are displayed, which of them are right, and which true boxes are missed."""

    kept: Detections
    right: Bool[Tensor, " N"]
    missed: Bool[Tensor, " G"]

    @property
    def counts(self) -> str:
        """How many are right, wrong and missed, in words."""
        return f"{int(self.right.sum())} right, {int((~self.right).sum())} wrong, {int(self.missed.sum())} missed"


def shown(target: Target, found: Detections, num_classes: int, threshold: float) -> Outcome:
    """The detections of at least `threshold`, matched as in COCO at IoU 0.5; a crowd is never missed."""
    chosen = found["scores"] >= threshold
    kept = Detections(boxes=found["boxes"][chosen], labels=found["labels"][chosen], scores=found["scores"][chosen])
    matches = match(pad_detections([kept]), pad_targets([target]), num_classes=num_classes)
    right = torch.zeros(len(kept["labels"]), dtype=torch.bool)
    count = int(matches.starts[0, -1])
    right[torch.from_numpy(matches.order[0, :count]).long()] = torch.from_numpy(matches.hits[0, 0, :count] & 1).bool()
    found_by = (box_iou(target.boxes, kept["boxes"]) >= 0.5) & (target.labels[:, None] == kept["labels"]) & right
    return Outcome(kept, right, ~found_by.any(1) & ~target.iscrowd)


def draw_outcome(
    axes: Axes, sample: Sample, found: Detections, classes: Sequence[str], threshold: float, title: str
) -> None:
    """Draw detections of at least `threshold`: correct ones green, wrong ones red, missed objects white (COCO, IoU 0.5)."""
    kept, right, missed = outcome = shown(sample.target, found, len(classes), threshold)
    draw_image(axes, sample.image, f"{title}: {outcome.counts}")
    draw_boxes(axes, sample.target.boxes[missed], "white")
    for chosen, colour in ((right, "lime"), (~right, "red")):
        names = [classes[label - 1] for label in kept["labels"][chosen].tolist()]
        draw_boxes(axes, kept["boxes"][chosen], colour, texts=names, width=1.8)
