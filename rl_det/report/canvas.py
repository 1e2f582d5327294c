"""Boxes and names on an image of pixels: the one place that draws them, for detections, photographs and environments."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rl_det.text import printable

SHADOW = "#000000"
DASHED, DOTTED, SOLID = (10, 6), (3, 5), (1, 0)
"""Pixels of a line that are drawn and left out."""
MARGIN = 1
"""Pixels around a name within its box."""


def _font() -> str:
    """The font's file, found without loading matplotlib, which is slow."""
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


FONT = _font()
"""The file of DejaVu Sans: Latin, Greek, Cyrillic and more; Chinese, Japanese and Korean letters are drawn as boxes."""


def picture_of(image: Float[Tensor, "3 H W"], times: int = 1) -> Image.Image:
    """The image in 8 bits, each pixel drawn `times` as high and as wide; values beyond [0, 1] are clipped."""
    pixels = (255 * image.clamp(0, 1)).round().to(torch.uint8).repeat_interleave(times, 1).repeat_interleave(times, 2)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy(force=True))


def outline(
    picture: Image.Image,
    boxes: Float[Tensor, "N 4"],
    colours: Sequence[str],
    *,
    width: int,
    texts: Sequence[str] = (),
    letters: int = 11,
) -> None:
    """Draw each box in its colour, with lines of `width` pixels; a box without a size is left out.

    `texts`, if given, stand in the boxes' upper left corners, black on the colour, in `letters` pixels.
    """
    pen, font, margin = ImageDraw.Draw(picture), ImageFont.truetype(FONT, letters), width + MARGIN
    for place in (boxes[:, 2:] > boxes[:, :2]).all(1).nonzero().flatten().tolist():
        left, top, right, bottom = boxes[place].to(torch.int64).tolist()
        pen.rectangle((left, top, right, bottom), width=width, outline=colours[place])
        if texts:
            at = (left + margin, top + margin)
            text = printable(texts[place])
            x, y, x_end, y_end = pen.textbbox(at, text, font=font)
            pen.rectangle((x - MARGIN, y - MARGIN, x_end + MARGIN, y_end + MARGIN), fill=colours[place])
            pen.text(at, text, fill="black", font=font)


def outline_on_shadow(picture: Image.Image, box: Sequence[float], colour: str, dash: tuple[int, int]) -> None:
    """Draw a box on a dark shadow, which is seen on any image; `dash` is how many pixels are drawn and left out."""
    pen, (left, top, right, bottom) = ImageDraw.Draw(picture), box
    pen.rectangle([left - 2, top - 2, max(right, left) + 2, max(bottom, top) + 2], outline=SHADOW, width=5)
    for start, end in (
        ((left, top), (right, top)), ((right, top), (right, bottom)), ((right, bottom), (left, bottom)),
        ((left, bottom), (left, top)),
    ):  # fmt: skip
        length, (drawn, left_out) = max(abs(end[0] - start[0]), abs(end[1] - start[1])), dash
        if not left_out:
            pen.line([start, end], fill=colour, width=3)
            continue
        for begin in range(0, int(length), drawn + left_out):
            a, b = begin / length, min(length, begin + drawn) / length
            ends = [tuple(s + share * (e - s) for s, e in zip(start, end, strict=True)) for share in (a, b)]
            pen.line([(ends[0][0], ends[0][1]), (ends[1][0], ends[1][1])], fill=colour, width=3)


def write_above(picture: Image.Image, box: Sequence[float], text: str, colour: str) -> None:
    """Write a word on a dark ground above the box, or inside it at the image's border."""
    pen, font, text = ImageDraw.Draw(picture), ImageFont.truetype(FONT, 13), printable(text)
    left, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    x = min(max(0.0, box[0] - 1), max(0.0, picture.width - right - 4))
    y = box[1] - bottom - 4 if box[1] - bottom - 4 >= 0 else box[1] + 2
    pen.rectangle([x, y, x + right - left + 4, y + bottom + 3], fill=SHADOW)
    pen.text((x + 2 - left, y + 1), text, fill=colour, font=font)
