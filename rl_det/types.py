"""The data types of rl_det, and the letters of their shapes.

Letters: B images, P proposals, N candidates, G true boxes, C classes, T IoU thresholds, K samples per image, D
features. Boxes are xyxy, in pixels of the user's image. Labels are 1..C, as in torchvision: 0 is the background and
never a label.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rl_det.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Target:
    """The true boxes of one image; each field has COCO's meaning.

    `area` is the annotation's own (a segmentation's area, if there is one), not the box's. A crowd region (`iscrowd`)
    may absorb any number of detections and counts neither for nor against them.
    """

    boxes: Float[Tensor, "G 4"]
    labels: Int[Tensor, " G"]
    area: Float[Tensor, " G"]
    iscrowd: Bool[Tensor, " G"]
    image_id: int

    def to(self, device: torch.device | str) -> "Target":
        """The same target on another device."""
        return self._map(lambda part: part.to(device))

    def copied(self) -> "Target":
        """The same target in memory of its own."""
        return self._map(Tensor.clone)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Target":
        changed: dict[str, Any] = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name != "image_id"}
        return replace(self, **changed)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image, RGB in [0, 1], and its true boxes."""

    image: Float[Tensor, "3 H W"]
    target: Target


class Detections(TypedDict):
    """The detections of one image in torchvision's dictionary form, best score first."""

    boxes: Float[Tensor, "M 4"]
    labels: Int[Tensor, " M"]
    scores: Float[Tensor, " M"]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The frozen part's output for B images: all that the trainable head needs, so the frozen part need not run again.

    `features` holds one tensor for each feature level, each with B first: RoI-pooled features [B, P, C, h, w]
    (two-stage), feature maps in rows [B, C, H * W] (one-stage), query embeddings [B, P, D] (DETR). `reference` holds the boxes
    that the head refines, in pixels of the *resized* image: proposals or anchors, or zeros for queries. `mask` is False
    on padding. `input_size` and `image_size` are the images' sizes (height, width) after and before the detector's
    transform. `exact` holds what no cache may round: the places of kept anchors, sizes of maps. Only the detector's own
    head reads `features` and `exact`; their form follows from the part that is trained.
    """

    features: tuple[Float[Tensor, "B ..."], ...]
    reference: Float[Tensor, "B P 4"]
    mask: Bool[Tensor, "B P"]
    input_size: Float[Tensor, "B 2"]
    image_size: Float[Tensor, "B 2"]
    exact: tuple[Shaped[Tensor, "B ..."], ...] = ()

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, images: Int[Tensor, " b"] | slice) -> "Encoded":
        """The encodings of some of the images, in the given order."""
        return self.map(lambda tensor: tensor[images])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Encoded":
        """The same encodings on another device; `dtype` (such as torch.float16, for a cache) applies only to the features."""
        moved = self.map(lambda tensor: tensor.to(device))
        return replace(moved, features=tuple(level.to(dtype) for level in moved.features)) if dtype else moved

    def without_features(self) -> "Encoded":
        """The encodings as they are known where only the head's output matters."""
        return replace(self, features=())

    def map(self, change: Callable[[Tensor], Tensor]) -> "Encoded":
        """The encodings with every tensor changed."""
        return self.of({name: change(tensor) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name; those of a tuple by its name, a dot and their place: "features.0"."""
        several = {
            f"{name}.{place}": tensor
            for name in ("features", "exact")
            for place, tensor in enumerate(getattr(self, name))
        }
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("features", "exact")}
        return {**several, **rest}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Encoded":
        """The encodings with these tensors, by the names of `tensors()`; ValueError for other names."""
        single: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if "." not in name}
        several: dict[str, Any] = {
            name: tuple(
                tensors[f"{name}.{place}"] for place in range(sum(key.startswith(f"{name}.") for key in tensors))
            )
            for name in ("features", "exact")
        }
        return cls(**several, **single)


class HeadOutput(NamedTuple):
    """The head's output for every (proposal, class) pair.

    `logits` are log-odds, log(p / (1 - p)), in every detector family. They are unbounded, so they keep ranks where
    sigmoids saturate. `embeddings` is the head's last hidden layer, which a context policy takes as input.
    Class-agnostic boxes are repeated for each class.
    """

    logits: Float[Tensor, "B P C"]
    boxes: Float[Tensor, "B P C 4"]
    embeddings: Float[Tensor, "B P D"]
    for_losses: Mapping[str, Tensor] | None = None
    """In training, what the detector's own losses take of the head, by the library's names [B, ...], where it is more than
    the above: what a dense head predicts for all N anchors, or a query detector's scores and boxes as they are."""

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, boxes and embeddings."""
        return self.logits, self.boxes, self.embeddings

    def of_images(self, rows: slice | Tensor) -> "HeadOutput":
        """The output for these images of the batch."""
        rest = None if self.for_losses is None else {name: part[rows] for name, part in self.for_losses.items()}
        return HeadOutput(self.logits[rows], self.boxes[rows], self.embeddings[rows], rest)


class TrainingPass(NamedTuple):
    """One training pass of a whole detector over images: its own losses, and the head's output for its proposals.

    Everything has a graph to the whole detector, except the places of the proposals, which are constant.
    """

    losses: dict[str, Tensor]
    encoded: Encoded
    output: HeadOutput


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The N best (proposal, class) pairs of each image by logit, before any score threshold and any NMS.

    They are sorted by falling logit and padded at the end (`mask` False, logit -inf). `index` is p * C + c - 1 for
    proposal p and label c. It finds the same candidates in a later output of the head.
    """

    boxes: Float[Tensor, "B N 4"]
    labels: Int[Tensor, "B N"]
    logits: Float[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]
    index: Int[Tensor, "B N"]

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, images: Int[Tensor, " b"] | slice) -> "Candidates":
        """The candidates of some of the images, in the given order."""
        return Candidates(**{f.name: getattr(self, f.name)[images] for f in fields(self)})

    def to(self, device: torch.device | str) -> "Candidates":
        """The same candidates on another device."""
        return Candidates(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def concatenate(
    parts: Iterable[Encoded], num_images: int, *, empty: Callable[[str, Tensor], Tensor] | None = None
) -> Encoded:
    """Join encodings into one of `num_images` images, without a second copy in memory.

    `empty` allocates each joined tensor, given its name and the first part's tensor; by default in memory. Raises ValueError if
    shapes disagree beyond the image axis.
    """
    empty = empty or (lambda _, like: like.new_empty(num_images, *like.shape[1:]))
    whole: dict[str, Tensor] = {}
    filled = 0
    for part in parts:
        tensors = part.tensors()
        whole = whole or {name: empty(name, tensor) for name, tensor in tensors.items()}
        shapes = {tuple(tensor.shape[1:] for tensor in those.values()) for those in (whole, tensors)}
        if len(shapes) != 1:
            raise UserError(
                f"encodings to concatenate must agree in shape beyond the image axis; got {sorted(shapes)}; "
                "give the detector a fixed image size, or encode one batch at a time"
            )
        for name, tensor in tensors.items():
            whole[name][filled : filled + len(part)] = tensor
        filled += len(part)
    if not whole or filled != num_images:
        raise ValueError(f"the encodings to concatenate must hold {num_images} images, one at least; got {filled}")
    return Encoded.of(whole)
