"""Read an image file's size, or its pixels as RGB in [0, 1], upright as its EXIF orientation says."""

import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from rl_det.data.check import DataError
from rl_det.errors import UserError
from rl_det.settings import at_least, check_settings

TURNED_SIDEWAYS = (5, 6, 7, 8)
"""The EXIF orientations that swap width and height."""


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Which images are refused at opening, as they would fill the memory or have no side left when they are resized."""

    max_pixels: int = 89_478_485
    """The most pixels of an image; left out: Pillow's own limit."""
    max_aspect: float = 50.0
    """The longer side is at most so many times the shorter one."""

    def __post_init__(self) -> None:
        check_settings(self, max_pixels=at_least(1, usual="89478485"), max_aspect=at_least(1, usual="50"))

    def check(self, width: int, height: int, path: Path, entry: str) -> None:
        """Raise DataError for an image beyond the limits."""
        if width * height > self.max_pixels:
            raise DataError(
                path,
                entry,
                f"{width} x {height} pixels are more than max_pixels={self.max_pixels}; raise it if memory allows",
            )
        if max(width, height) > self.max_aspect * min(width, height):
            raise DataError(
                path,
                entry,
                f"{width} x {height} pixels are longer than max_aspect={self.max_aspect:g} times their width; cut the image",
            )


class Header(NamedTuple):
    """What the header of an image file says."""

    width: int
    """Of the upright picture."""
    height: int
    is_turned: bool
    """Whether its EXIF orientation turns or mirrors the stored pixels."""


def read_header(path: Path, entry: str, limits: ImageLimits | None = None) -> Header:
    """The upright picture's size, from the file's header only.

    Raises DataError, which names the file and the entry that lists it, if the file is missing, is not an image, or is
    beyond the limits.
    """
    limits = limits or ImageLimits()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(path, entry, "not an image: it is a folder, a device or a pipe")
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            opened(path, limits.max_pixels) as image,
        ):
            width, height = image.size
            # Asked for its EXIF, a PNG without any is decoded whole.
            orientation = image.getexif().get(ExifTags.Base.Orientation) if "exif" in image.info else None
    except DataError:
        raise
    except FileNotFoundError as fault:
        raise DataError(path, entry, "there is no such image file") from fault
    except Image.DecompressionBombError as fault:
        raise DataError(path, entry, f"too large: {fault}; raise max_pixels if memory allows") from fault
    except Exception as fault:  # Pillow's readers raise nearly anything at a damaged file
        raise DataError(path, entry, f"not an image that Pillow can read ({fault})") from fault
    limits.check(width, height, path, entry)
    if orientation in TURNED_SIDEWAYS:
        width, height = height, width
    return Header(width, height, orientation not in (None, 1))


def opened(path: Path, max_pixels: int) -> Image.Image:
    """The image file, opened by Pillow, whose own limit is raised if the user's is higher."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    return Image.open(path)


def read_image(path: Path, entry: str, limits: ImageLimits | None = None) -> Float[Tensor, "3 H W"]:
    """The upright picture as RGB; transparency is dropped, and grey becomes three equal channels.

    Raises DataError, which names the file and the entry that lists it, if the file is truncated or its pixels have no
    known range.
    """
    try:
        with opened(path, (limits or ImageLimits()).max_pixels) as image:
            return rgb(ImageOps.exif_transpose(image))
    except Exception as fault:  # Pillow's readers raise nearly anything at a damaged file
        raise DataError(path, entry, f"the image cannot be decoded; is the file whole? ({fault})") from fault


def brightest_pixel(path: Path, entry: str, size: tuple[int, int], limits: ImageLimits | None = None) -> float:
    """The highest value of any channel in [0, 1], without making a tensor; the upright picture must have this (width, height).

    Raises DataError as `read_image` does.
    """
    try:
        with opened(path, (limits or ImageLimits()).max_pixels) as image:
            image.load()
            upright = ImageOps.exif_transpose(image) if "exif" in image.info else image
            if upright.size == size and upright.mode in ("L", "RGB"):
                return float(np.asarray(upright).max()) / 255
            pixels = rgb(upright)
    except Exception as fault:  # Pillow's readers raise nearly anything at a damaged file
        raise DataError(path, entry, f"the image cannot be decoded; is the file whole? ({fault})") from fault
    if (pixels.shape[2], pixels.shape[1]) != size:
        raise DataError(path, entry, f"its header says {size[0]} x {size[1]}, its pixels are {tuple(pixels.shape)}")
    return float(pixels.max())


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
