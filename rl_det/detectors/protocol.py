"""What every detector can do: images -> a frozen, cacheable encoding -> what its trainable head says -> candidates.

How DETR's queries fit, on paper: `features` is one level, the decoder's last hidden states [B, P, D], one row a query;
`reference` is zeros, as a query refines no box, and `mask` is all True. The head is `class_embed` and `bbox_embed`:
log-odds of each class against all others, "no object" included, from the softmax over C + 1 columns, of which the
"no object" one is then dropped; `bbox_embed`'s sigmoids, turned from cxcywh into xyxy and multiplied by the original
size, expanded over the classes; the hidden states again as embeddings. `loss` is its set loss on the last layer, after
Hungarian matching. It has no NMS, so its detections are `nms(..., nms_iou=1.0)` of its candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target, TrainingPass


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How a detector's library model is built again, but for its weights; `num_classes` is without the background."""

    library: Literal["rl_det", "torchvision", "own"]
    """Who builds it: rl_det (tiny), torchvision by its name, or the user's own code."""
    name: str
    """The builder's name, or the class of the user's own model."""
    num_classes: int
    input_size: int | None
    """The shorter side after resizing, in pixels; None: the builder's own."""

    @classmethod
    def own(cls, model: nn.Module, num_classes: int) -> "Architecture":
        """Of a model that the user has built."""
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        return cls(library="own", name=name, num_classes=num_classes, input_size=None)


@runtime_checkable
class Detector(Protocol):
    """A trained detector, cut in two: the frozen part that runs once an image, and the head that fine-tuning trains.

    Images may lie on any device; what comes out lies on the model's. Every method leaves the model in eval mode, so
    that batch normalisation and dropout act in training the head as they do in use.
    """

    architecture: Architecture
    is_trained: bool
    """Whether it knows the data's classes already; if not, a supervised warm start comes first."""

    @property
    def num_classes(self) -> int:
        """C, without the background."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model lies, and what it gives."""
        ...

    @property
    def nms_iou(self) -> float:
        """The IoU above which its own post-processing suppresses the lower of two detections of one class."""
        ...

    @property
    def embedding_size(self) -> int:
        """D of the embeddings that the head gives."""
        ...

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Encoded:
        """The frozen part's work, without gradient; the same for the same images, whatever the head has learned."""
        ...

    def training_pass(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> TrainingPass:
        """All of the model's own losses, of labels in the library's form, and the head's output, for training all of it.

        What is dear runs once for both. Features are those of training mode (batch statistics and all), and proposals as
        many as in use.
        """
        ...

    def head(self, encoded: Encoded) -> HeadOutput:
        """Log-odds, boxes in the user's pixels, clipped to the image, and embeddings, in float32 and with gradient.

        Padded proposals have values too, finite and without meaning.
        """
        ...

    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        """The N best (proposal, class) pairs by logit, before any threshold and any NMS; no gradient."""
        ...

    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        """The library model's own forward, with its own threshold, NMS and limit."""
        ...

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        """The detector's own supervised losses of the head on the encoded proposals, by the library's names.

        `output` is what `head(encoded)` gave, so that the head's trunk need not run twice in one step.

        Crowds are no objects to find, and what lies in them by more than half is no background either.
        """
        ...

    @property
    def trainable(self) -> nn.Module:
        """What fine-tuning trains, as one module: a part of `plain()`, and nothing else of it changes."""
        ...

    def recalibrate(self, scale: float, shift: float) -> None:
        """Fold logits -> scale * logits + shift, `scale` positive, into the head's weights.

        Exact for sigmoids. A softmax has no weights that do this to every class's log-odds: there it is the temperature and
        the background's bias, exact where one class rivals the background and near to it elsewhere.
        """
        ...

    def plain(self) -> nn.Module:
        """The library's own model, the very object that is trained, in eval mode; its state loads without rl_det."""
        ...
