"""An image with its detections drawn on it, as a JPEG within a page."""

import base64
import io
from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rl_det.report.html import Photograph, printable
from rl_det.report.lettering import FONT
from rl_det.report.pictures import Outcome
from rl_det.types import Target

SIDE = 512
"""Pixels; a photograph's longer side has at most so many, and a small image is enlarged by a whole number up to it."""
QUALITY = 82
MOST_LETTERS = 24
"""A longer name is cut."""
RIGHT, WRONG, MISSED = "#3ddc84", "#ff5d5d", "#ffffff"
SHADOW = "#000000"
DASHED, DOTTED, SOLID = (10, 6), (3, 5), (1, 0)
"""Pixels that are drawn and left out."""


def photograph(
    image: Float[Tensor, "3 H W"], target: Target, outcome: Outcome, classes: Sequence[str], caption: str
) -> Photograph:
    """Draw right boxes solid, wrong ones dashed and missed ones dotted, so that they differ without their colours."""
    canvas, scale = _sized(image)
    draw, font = ImageDraw.Draw(canvas), ImageFont.truetype(FONT, 13)
    for box in target.boxes[outcome.missed].tolist():
        _rectangle(draw, [scale * side for side in box], MISSED, DOTTED)
    kept = outcome.kept
    for place, correct in enumerate(outcome.right.tolist()):
        box = [scale * side for side in kept["boxes"][place].tolist()]
        _rectangle(draw, box, RIGHT if correct else WRONG, SOLID if correct else DASHED)
    for place, correct in enumerate(outcome.right.tolist()):
        box = [scale * side for side in kept["boxes"][place].tolist()]
        name = classes[int(kept["labels"][place]) - 1]
        _label(
            draw,
            font,
            box,
            f"{printable(name)[:MOST_LETTERS]} {float(kept['scores'][place]):.2f}",
            RIGHT if correct else WRONG,
        )
    return Photograph(
        uri=_uri(canvas), width=canvas.width, height=canvas.height, alt=f"{caption}: {outcome.counts}",
        caption=f"{caption}: {outcome.counts}",
    )  # fmt: skip


def _sized(image: Float[Tensor, "3 H W"]) -> tuple[Image.Image, float]:
    """The image at the size of a photograph, and how much larger that is."""
    pixels = (255 * image.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy(force=True)
    whole = Image.fromarray(pixels)
    longer = max(whole.size)
    scale = float(SIDE // longer) if longer <= SIDE else SIDE / longer
    size = (max(1, round(scale * whole.width)), max(1, round(scale * whole.height)))
    return whole.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BILINEAR), scale


def _rectangle(draw: ImageDraw.ImageDraw, box: list[float], colour: str, dash: tuple[int, int]) -> None:
    """A frame on a dark shadow, which is seen on any image; `dash` is how many pixels are drawn and left out."""
    left, top, right, bottom = box
    draw.rectangle([left - 2, top - 2, max(right, left) + 2, max(bottom, top) + 2], outline=SHADOW, width=5)
    for start, end in (
        ((left, top), (right, top)), ((right, top), (right, bottom)), ((right, bottom), (left, bottom)),
        ((left, bottom), (left, top)),
    ):  # fmt: skip
        length, (drawn, left_out) = max(abs(end[0] - start[0]), abs(end[1] - start[1])), dash
        if not left_out:
            draw.line([start, end], fill=colour, width=3)
            continue
        for begin in range(0, int(length), drawn + left_out):
            a, b = begin / length, min(length, begin + drawn) / length
            ends = [tuple(s + share * (e - s) for s, e in zip(start, end, strict=True)) for share in (a, b)]
            draw.line([(ends[0][0], ends[0][1]), (ends[1][0], ends[1][1])], fill=colour, width=3)


def _label(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    box: list[float],
    text: str,
    colour: str,
) -> None:
    """A word above the box, or inside it at the image's border."""
    left, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = min(max(0.0, box[0] - 1), max(0.0, draw.im.size[0] - right - 4))
    y = box[1] - bottom - 4 if box[1] - bottom - 4 >= 0 else box[1] + 2
    draw.rectangle([x, y, x + right - left + 4, y + bottom + 3], fill=SHADOW)
    draw.text((x + 2 - left, y + 1), text, fill=colour, font=font)


def _uri(canvas: Image.Image) -> str:
    written = io.BytesIO()
    canvas.save(written, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
