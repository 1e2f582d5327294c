"""Draw images and boxes on matplotlib's axes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.ops import box_iou

from rl_det.ap.matching import match
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.types import Detections, Sample


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


def draw_outcome(
    axes: Axes, sample: Sample, found: Detections, classes: Sequence[str], threshold: float, title: str
) -> None:
    """Draw detections of at least `threshold`: correct ones green, wrong ones red, missed objects white (COCO, IoU 0.5)."""
    shown = found["scores"] >= threshold
    kept = Detections(boxes=found["boxes"][shown], labels=found["labels"][shown], scores=found["scores"][shown])
    matches = match(pad_detections([kept]), pad_targets([sample.target]), num_classes=len(classes))
    right = torch.zeros(len(kept["labels"]), dtype=torch.bool)
    count = int(matches.starts[0, -1])
    right[torch.from_numpy(matches.order[0, :count]).long()] = torch.from_numpy(matches.hits[0, 0, :count] & 1).bool()
    target, boxes, labels = sample.target, kept["boxes"], kept["labels"]
    found_by = (box_iou(target.boxes, boxes) >= 0.5) & (target.labels[:, None] == labels) & right
    missed = ~found_by.any(1) & ~target.iscrowd
    counts = f"{int(right.sum())} right, {int((~right).sum())} wrong, {int(missed.sum())} missed"
    draw_image(axes, sample.image, f"{title}: {counts}")
    draw_boxes(axes, target.boxes[missed], "white")
    for chosen, colour in ((right, "lime"), (~right, "red")):
        names = [classes[label - 1] for label in labels[chosen].tolist()]
        draw_boxes(axes, boxes[chosen], colour, texts=names, width=1.8)
