"""An image with its detections drawn on it, as a JPEG within a page."""

import base64
import io
from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rl_det.report.canvas import DASHED, DOTTED, SOLID, outline_on_shadow, picture_of, write_above
from rl_det.report.html import Photograph
from rl_det.report.pictures import Outcome
from rl_det.text import printable
from rl_det.types import Target

SIDE = 512
"""Pixels; a photograph's longer side has at most so many, and a small image is enlarged by a whole number up to it."""
QUALITY = 82
MOST_LETTERS = 24
"""A longer name is cut."""
RIGHT, WRONG, MISSED = "#3ddc84", "#ff5d5d", "#ffffff"


def photograph(
    image: Float[Tensor, "3 H W"], target: Target, outcome: Outcome, classes: Sequence[str], caption: str
) -> Photograph:
    """Draw right boxes solid, wrong ones dashed and missed ones dotted, so that they differ without their colours."""
    canvas, scale = _sized(image)
    for box in target.boxes[outcome.missed].tolist():
        outline_on_shadow(canvas, [scale * side for side in box], MISSED, DOTTED)
    kept = outcome.kept
    boxes = [[scale * side for side in box] for box in kept["boxes"].tolist()]
    colours = [RIGHT if correct else WRONG for correct in outcome.right.tolist()]
    for box, colour in zip(boxes, colours, strict=True):
        outline_on_shadow(canvas, box, colour, SOLID if colour == RIGHT else DASHED)
    for box, colour, label, score in zip(boxes, colours, kept["labels"].tolist(), kept["scores"].tolist(), strict=True):
        write_above(canvas, box, f"{printable(classes[label - 1])[:MOST_LETTERS]} {score:.2f}", colour)
    return Photograph(
        uri=_uri(canvas), width=canvas.width, height=canvas.height, alt=f"{caption}: {outcome.counts}",
        caption=f"{caption}: {outcome.counts}",
    )  # fmt: skip


def _sized(image: Float[Tensor, "3 H W"]) -> tuple[Image.Image, float]:
    """The image at the size of a photograph, and how much larger that is."""
    whole = picture_of(image)
    longer = max(whole.size)
    scale = float(SIDE // longer) if longer <= SIDE else SIDE / longer
    size = (max(1, round(scale * whole.width)), max(1, round(scale * whole.height)))
    return whole.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR), scale


def _uri(canvas: Image.Image) -> str:
    written = io.BytesIO()
    canvas.save(written, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
