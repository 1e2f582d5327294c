"""Read an image file's size, or its pixels as RGB in [0, 1], upright as its EXIF orientation says."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from rl_det.data.check import DataError
from rl_det.errors import UserError

TURNED_SIDEWAYS = (5, 6, 7, 8)
"""The EXIF orientations that swap width and height."""


def image_size(path: Path, entry: str) -> tuple[int, int]:
    """Width and height of the upright picture, from the file's header only.

    Raises DataError, which names the file and the entry that lists it, if the file is missing or is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Asked for its EXIF, a PNG without any is decoded whole.
            orientation = image.getexif().get(ExifTags.Base.Orientation) if "exif" in image.info else None
    except FileNotFoundError as fault:
        raise DataError(path, entry, "there is no such image file; file names are relative to images/") from fault
    except Exception as fault:  # Pillow's readers raise nearly anything at a damaged file
        raise DataError(path, entry, f"not an image that Pillow can read ({fault})") from fault
    return (height, width) if orientation in TURNED_SIDEWAYS else (width, height)


def read_image(path: Path, entry: str) -> Float[Tensor, "3 H W"]:
    """The upright picture as RGB; transparency is dropped, and grey becomes three equal channels.

    Raises DataError, which names the file and the entry that lists it, if the file is truncated or its pixels have no
    known range.
    """
    try:
        with Image.open(path) as image:
            return rgb(ImageOps.exif_transpose(image))
    except Exception as fault:  # Pillow's readers raise nearly anything at a damaged file
        raise DataError(path, entry, f"the image cannot be decoded; is the file whole? ({fault})") from fault


def rgb(image: Image.Image) -> Float[Tensor, "3 H W"]:
    """A picture of any Pillow mode as RGB in [0, 1], except "F" (floats without a known range), which raises ValueError."""
    if image.mode == "F":
        raise UserError("floating-point pixels have no known range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits of grey: Pillow's own conversion would cut them off at 255
        grey = np.asarray(image, dtype=np.float32) / 65535
        return torch.from_numpy(grey).clamp(0, 1).expand(3, -1, -1).contiguous()
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 255
