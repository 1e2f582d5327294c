"""Images as a model of transformers takes them in, by the library's own image processors."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Resampling
from torch import Tensor
from torch.nn.functional import pad

from rl_det.detectors.interpolation import interpolated
from rl_det.detectors.transformers.anatomy import Anatomy
from rl_det.detectors.transformers.library import library
from rl_det.errors import UserError

SETTINGS = "preprocessor_config.json"
STRIDE = 32
"""What the sides of a square must divide by, as RT-DETR's and D-FINE's encoders add maps of three strides up to this."""


def image_processor(anatomy: Anatomy | type[Anatomy], input_size: int | None, folder: str | None = None) -> Any:
    """The image processor in a folder or of a hub name, or else the default of the model type.

    `input_size` replaces the side of its square, or its shorter side, with the longer side's limit in proportion.
    """
    processor = _of_folder(anatomy, folder) if folder else getattr(library(), anatomy.processor)()
    return sized(processor, input_size)


def sized(processor: Any, input_size: int | None) -> Any:
    """The image processor with another side of its square, or another shorter side; None: its own.

    Raises ValueError for a processor that cannot be followed.
    """
    _check(processor)
    if input_size is not None:
        processor.size = _resized_to(processor.size, input_size)
    return processor


def processor_of(anatomy: Anatomy, input_size: int | None) -> Any:
    """The image processor from where the library has loaded the model, if it is still there; else the default one."""
    source = str(anatomy.model.name_or_path)
    if not Path(source).is_dir() and source:  # a hub name; what is downloaded is enough
        with suppress(OSError, ValueError):
            kind = getattr(library(), anatomy.processor)
            return sized(kind.from_pretrained(source, local_files_only=True), input_size)
    return image_processor(anatomy, input_size, source if Path(source).is_dir() and source else None)


def _of_folder(anatomy: Anatomy | type[Anatomy], folder: str) -> Any:
    """The folder's own image processor; the default if the folder has no settings of one."""
    kind = getattr(library(), anatomy.processor)
    if Path(folder).is_dir() and not (Path(folder) / SETTINGS).is_file():
        return kind()
    try:
        return kind.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{folder}: must hold readable settings of a {anatomy.processor}; {reason}") from error


def _resized_to(size: Any, input_size: int) -> Any:
    """The processor's size with another side, in the processor's own form."""
    if size.shortest_edge:
        longest = round(input_size * (size.longest_edge or size.shortest_edge) / size.shortest_edge)
        return type(size)(shortest_edge=input_size, longest_edge=longest)
    if input_size % STRIDE:
        raise UserError(f"input_size must be a multiple of {STRIDE} for a model with square images; got {input_size}")
    return type(size)(height=input_size, width=input_size)


def resized(processor: Any, image: Tensor) -> Tensor:
    """One image [3, H, W] in [0, 1] as the model takes it in, without padding, on its own device."""
    images = [_rescaled(processor, image)]
    made = processor(
        images=images, do_rescale=False, do_pad=False, input_data_format="channels_first", return_tensors="pt"
    )
    pixels: Tensor = made["pixel_values"][0]
    return pixels


def _check(processor: Any) -> None:
    """Raise ValueError for settings that would change what the model sees, and that are not followed here."""
    if processor.do_pad and getattr(processor, "pad_size", None):
        raise UserError(
            f"an image processor must not pad every image to one size; its pad_size is {processor.pad_size}"
        )
    if not processor.do_rescale and processor.do_normalize and max(processor.image_mean) > 1:
        mean = tuple(processor.image_mean)
        raise UserError(
            f"an image processor must rescale pixels (do_rescale), or take them in [0, 1]; its mean is {mean}"
        )


def _rescaled(processor: Any, image: Tensor) -> Tensor:
    """The image in [0, 1] as the processor's own factor, which is for 0..255, would have it."""
    factor = 255 * processor.rescale_factor if processor.do_rescale else 1.0
    return image if math.isclose(factor, 1.0) else image * factor


def resized_by_tensors(processor: Any, image: Float[Tensor, "3 _ _"]) -> Float[Tensor, "3 _ _"]:
    """What `resized` makes of the image, by operations that torch can trace; if sizes vary, for images of this very size.

    Raises ValueError for a processor that does not interpolate linearly.
    """
    if processor.do_resize and processor.resample != Resampling.BILINEAR:
        raise UserError(
            f"an image processor must interpolate linearly to be traced; this one has {processor.resample!r}"
        )
    size = fixed_size(processor) or resized(processor, torch.zeros(3, *map(int, image.shape[1:]))).shape[1:]
    image = _rescaled(processor, image)
    pixels = interpolated(image, (size[0], size[1]), antialias=True) if processor.do_resize else image
    if processor.do_normalize:
        mean, std = (pixels.new_tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
        pixels = (pixels - mean) / std
    return pixels


def fixed_size(processor: Any) -> tuple[int, int] | None:
    """Height and width of every resized image; None if they vary."""
    size = processor.size
    return (size.height, size.width) if processor.do_resize and size.height and size.width else None


def largest_size(processor: Any) -> tuple[int, int] | None:
    """Sides that bound those of every resized image; None if all images have one size, or any."""
    size = processor.size
    return (size.shortest_edge, size.longest_edge) if size.shortest_edge and size.longest_edge else None


def batches(pixels: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """The images of each size as one batch, and their places."""
    for shape in dict.fromkeys(image.shape for image in pixels):
        places = [place for place, image in enumerate(pixels) if image.shape == shape]
        yield places, torch.stack([pixels[place] for place in places])


def padded(pixels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All images as one batch, padded at the right and the bottom, and a mask that is 1 on the images."""
    height, width = (max(image.shape[axis] for image in pixels) for axis in (1, 2))
    margins = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in pixels]
    batch = torch.stack([pad(image, margin) for image, margin in zip(pixels, margins, strict=True)])
    ones = [torch.ones_like(image[0], dtype=torch.long) for image in pixels]
    return batch, torch.stack([pad(one, margin) for one, margin in zip(ones, margins, strict=True)])
