"""Images of several sizes in one batch: those of one padded size run together, and what came out is joined again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from rl_det.types import Encoded, HeadOutput


def one_size_together(
    transform: GeneralizedRCNNTransform, images: Sequence[Float[Tensor, "3 _ _"]]
) -> Iterator[tuple[list[int], ImageList]]:
    """The images of one padded size together: their rows, and as the transform makes each of them alone.

    In a batch, torchvision pads all images to the largest, and a detector then sees other zeros at their borders.
    """
    alone = [transform([image])[0] for image in images]
    groups: dict[torch.Size, list[int]] = {}
    for row, own in enumerate(alone):
        groups.setdefault(own.tensors.shape, []).append(row)
    for rows in groups.values():
        tensors = torch.cat([alone[row].tensors for row in rows])
        yield rows, ImageList(tensors, [alone[row].image_sizes[0] for row in rows])


def as_large_as_the_largest(parts: list[Encoded]) -> list[Encoded]:
    """The encodings of images, with zeros beyond their right and lower borders up to the largest of them."""
    height, width = (max(part.features[0].shape[axis] for part in parts) for axis in (2, 3))
    padded = [
        F.pad(part.features[0], (0, width - part.features[0].shape[3], 0, height - part.features[0].shape[2]))
        for part in parts
    ]
    return [replace(part, features=(images,)) for part, images in zip(parts, padded, strict=True)]


def joined(outputs: Sequence[HeadOutput]) -> HeadOutput:
    """The outputs of several groups of images, one after another; what the losses take has zeros behind shorter rows."""
    logits, boxes, embeddings = (torch.cat(part) for part in zip(*(own.tensors for own in outputs), strict=True))
    if outputs[0].for_losses is None:
        return HeadOutput(logits, boxes, embeddings)
    ragged = {
        name: [image for own in outputs for image in (own.for_losses or {})[name]] for name in outputs[0].for_losses
    }
    return HeadOutput(
        logits, boxes, embeddings, {name: pad_sequence(own, batch_first=True) for name, own in ragged.items()}
    )


def in_order(parts: list[dict[str, Tensor]], rows: list[Int[Tensor, " _"]]) -> dict[str, Tensor]:
    """Join what was computed for these rows of a batch, in the batch's order."""
    back = torch.cat(rows).argsort()
    return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


def padded(parts: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Outputs [B, N, K] with zeros behind those of smaller images."""
    longest = max(values.shape[1] for part in parts for values in part.values())
    return [
        {name: F.pad(values, (0, 0, 0, longest - values.shape[1])) for name, values in part.items()} for part in parts
    ]
