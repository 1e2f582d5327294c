"""What torchvision's detectors do to one image, by operations of tensors alone, so that torch can trace it for any size."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from rl_det.detectors.interpolation import Length, interpolated
from rl_det.types import Encoded


def transformed(transform: GeneralizedRCNNTransform, image: Float[Tensor, "3 _ _"]) -> ImageList:
    """The image as the transform makes it; the transform's own trace rounds sizes in single precision, and may lose a pixel."""
    pixels = interpolated(transform.normalize(image), size_after(transform, image))
    height, width = pixels.shape[1:]
    step = transform.size_divisible
    whole = F.pad(pixels, (0, (step - width % step) % step, 0, (step - height % step) % step))
    return ImageList(whole[None], [(height, width)])


def size_after(transform: GeneralizedRCNNTransform, image: Float[Tensor, "3 _ _"]) -> tuple[Length, Length]:
    """Height and width after resizing, rounded down from double precision, as torch's interpolate does."""
    if transform.fixed_size is not None:
        return transform.fixed_size[1], transform.fixed_size[0]
    sides = sizes(image.shape[1:]).double()
    most = torch.tensor([transform.min_size[-1], transform.max_size], dtype=torch.float64)
    after = (sides * (most / torch.stack([sides.min(), sides.max()])).min()).floor().long()
    return after[0], after[1]


def sizes(lengths: tuple[Length, ...]) -> Tensor:
    """Lengths as a tensor."""
    return torch.stack([torch.as_tensor(length) for length in lengths])


def alone(
    image: Float[Tensor, "3 _ _"], resized: ImageList, reference: Float[Tensor, "P 4"], mask: Bool[Tensor, " P"]
) -> Encoded:
    """The encoding of one image, without features."""
    (input_size,) = resized.image_sizes
    return Encoded(
        features=(),
        reference=reference[None],
        mask=mask[None],
        input_size=sizes(input_size).to(reference)[None],
        image_size=sizes(image.shape[1:]).to(reference)[None],
    )


def filled(values: Float[Tensor, "n ..."], count: int) -> tuple[Float[Tensor, "count ..."], Bool[Tensor, " count"]]:
    """`count` rows, zeros where there are fewer, and which of them are real; no more than `count`."""
    rows = torch.cat([values, values.new_zeros(count, *values.shape[1:])])[:count]
    real = torch.cat([torch.ones_like(values.flatten(1)[:, 0]), values.new_zeros(count)])[:count] > 0
    return rows, real


def best_places(worth: Float[Tensor, " N"], count: int) -> tuple[Int[Tensor, " count"], Bool[Tensor, " count"]]:
    """The places of the best `count` in rising order, place 0 behind them where there are fewer, and which are real."""
    places = torch.cat([worth, worth.new_full((count,), -torch.inf)]).topk(count).indices.sort().values
    real = places < worth.shape[0]
    return places.where(real, 0), real
