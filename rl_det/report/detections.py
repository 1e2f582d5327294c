"""A picture of an image's detections: boxes in their classes' colours, with names and scores."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from rl_det.report.lettering import FONT
from rl_det.types import Detections

READABLE_SIDE = 640
"""Pixels; a picture has about so many on its longer side at least."""
LETTERS = 11
"""Pixels; the size of the names in a picture."""
COLOURS = ("deepskyblue", "orange", "lime", "magenta", "yellow", "red", "cyan", "white")


def drawn(image: Float[Tensor, "3 H W"], found: Detections, classes: Sequence[str], threshold: float) -> Image.Image:
    """The image with the detections of at least this score; each class has its colour, with name and score.

    A small image is enlarged by a whole number, so that the names can be read.
    """
    times = max(1, round(READABLE_SIDE / max(image.shape[1:])))
    shown = (found["scores"] >= threshold) & (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(1)
    canvas = (255 * image.clamp(0, 1)).round().to(torch.uint8).repeat_interleave(times, 1).repeat_interleave(times, 2)
    labels = found["labels"][shown].tolist()
    if labels:
        texts = [
            f"{classes[label - 1]} {score:.2f}"
            for label, score in zip(labels, found["scores"][shown].tolist(), strict=True)
        ]
        colours = [COLOURS[label % len(COLOURS)] for label in labels]
        canvas = draw_bounding_boxes(
            canvas,
            times * found["boxes"][shown],
            labels=texts,
            colors=colours,
            width=2,
            font=FONT,
            font_size=LETTERS,
            label_colors="black",
            label_background_colors=colours,
            fill_labels=True,
        )
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())
