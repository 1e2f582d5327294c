"""A picture of an image's detections: boxes in their classes' colours, with names and scores."""

from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rl_det.report.canvas import outline, picture_of
from rl_det.types import Detections

READABLE_SIDE = 640
"""Pixels; a picture has about so many on its longer side at least."""
CLASS_COLOURS = ("deepskyblue", "orange", "lime", "magenta", "yellow", "red", "cyan", "white")


def drawn(image: Float[Tensor, "3 H W"], found: Detections, classes: Sequence[str], threshold: float) -> Image.Image:
    """The image with the detections of at least this score; each class has its colour, with name and score.

    A small image is enlarged by a whole number, so that the names can be read.
    """
    times = max(1, round(READABLE_SIDE / max(image.shape[1:])))
    shown, picture = found["scores"] >= threshold, picture_of(image, times)
    labels, scores = found["labels"][shown].tolist(), found["scores"][shown].tolist()
    outline(
        picture,
        times * found["boxes"][shown],
        [CLASS_COLOURS[label % len(CLASS_COLOURS)] for label in labels],
        width=2,
        texts=[f"{classes[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
    )
    return picture
