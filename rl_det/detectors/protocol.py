"""The Detector protocol: a frozen part that encodes images once, and a trainable head on the encodings.

Three parts can be trained, and each leaves another part frozen, whose output is what `encode` gives:

* `predictor`: the last layers alone, on what they take in. Encodings are small.
* `head`: all behind the frozen features: a two-stage detector's box head, a one-stage detector's towers, a query
  detector's last decoder layer and its predictors.
* `all`: the whole model; encodings are the resized images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rl_det.detectors.recalibration import PerClass
from rl_det.settings import at_least, check_settings
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target, TrainingPass

Part = Literal["predictor", "head", "all"]
"""The part of a detector that fine-tuning trains."""


Library = Literal["rl_det", "torchvision", "transformers", "own"]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a detector's library model again, without its weights; `num_classes` excludes the background."""

    library: Library
    """The code that builds it: rl_det (tiny), torchvision by a name, transformers by a configuration, or the user's own."""
    name: str
    """The builder's name for the model, or the class of the user's own model."""
    num_classes: int
    input_size: int | None
    """The shorter side after resizing, in pixels; None: the builder's own."""

    def __post_init__(self) -> None:
        check_settings(self, num_classes=at_least(1), input_size=at_least(1))

    @classmethod
    def own(cls, model: nn.Module, num_classes: int) -> "Architecture":
        """The architecture of a model that the user built."""
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        return cls(library="own", name=name, num_classes=num_classes, input_size=None)


@runtime_checkable
class Detector(Protocol):
    """A detector in two parts: the frozen part, which runs once an image, and the head, which fine-tuning trains.

    Images may be on any device; results are on the model's device. Every method leaves the model in eval mode, so batch
    normalisation and dropout act in training of the head as they do in detection.
    """

    architecture: Architecture
    is_trained: bool
    """Whether it is trained for the data's classes; if not, a supervised warm start comes first."""
    part: Part
    """The part that fine-tuning trains. `encode`, `head` and `trainable` follow it, `detect` and `training_pass` do not."""
    overlapping_proposals: bool
    """Whether several proposals look at one object, so that they can vote; each query of a set detector has its own."""
    moves_boxes: bool
    """Whether its boxes may be moved after the head, as box regression does."""

    @property
    def num_classes(self) -> int:
        """C, the number of classes without the background."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the model and of its results."""
        ...

    @property
    def nms_iou(self) -> float:
        """The IoU above which its own post-processing suppresses the lower of two detections of one class."""
        ...

    @property
    def max_detections(self) -> int:
        """The number of an image's detections that its own post-processing keeps at most; a set detector's is COCO's, 100."""
        ...

    @property
    def embedding_size(self) -> int:
        """D, the size of the head's embeddings."""
        ...

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]], num_proposals: int | None = None) -> Encoded:
        """Run the frozen part, without gradient.

        `num_proposals` keeps the proposals with the highest class logit under the present head, at most so many; left
        out: all, or as many as the detector usually keeps. What is kept does not depend on what the head has learned.
        """
        ...

    def training_losses(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The model's own losses in training mode (batch statistics, sampling), with gradient to all of it.

        `labels` have torchvision's form: "boxes" in pixels, "labels" from 1.
        """
        ...

    def training_pass(
        self, images: Sequence[Float[Tensor, "3 _ _"]], labels: Sequence[dict[str, Tensor]]
    ) -> TrainingPass:
        """The model's own losses for labels in the library's form, and the head's output, for training the whole detector.

        The expensive parts run once for both. Features are computed in training mode (batch statistics included), and
        there are as many proposals as in detection.
        """
        ...

    def head(self, encoded: Encoded) -> HeadOutput:
        """Log-odds, boxes in the user's pixels (clipped to the image) and embeddings, in float32 and with gradient.

        Padded proposals have finite values without meaning.
        """
        ...

    def propose(self, encoded: Encoded, num_candidates: int) -> Candidates:
        """The N best (proposal, class) pairs by logit, before any threshold and any NMS; without gradient."""
        ...

    def detect(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> list[Detections]:
        """The library model's own forward pass, with its own threshold, NMS and limit."""
        ...

    def loss(self, encoded: Encoded, targets: Sequence[Target], output: HeadOutput) -> dict[str, Tensor]:
        """The detector's own supervised losses of the head on the encoded proposals, by the library's names.

        `output` is the result of `head(encoded)`, so the head's trunk need not run twice in one step. Crowds are not
        objects to find, and a proposal with more than half its area in a crowd is not background either.
        """
        ...

    @property
    def backbone(self) -> nn.Module:
        """The part of `plain()` that sees the images first, most of the frozen part's work; it may give any nest of tensors."""
        ...

    @property
    def trainable(self) -> nn.Module:
        """The part that fine-tuning trains, as one module: a part of `plain()`, of which nothing else changes."""
        ...

    @property
    def recalibrates_classes(self) -> bool:
        """Whether `recalibrate` gives every class its own scale and shift exactly: no softmax, and nothing shared."""
        ...

    def recalibrate(self, scale: PerClass, shift: PerClass) -> None:
        """Fold logits -> scale * logits + shift, with positive scales, for each class into the head's weights.

        This is exact for sigmoids. A softmax has no weights that do this to every class's log-odds. There, each class's
        distance from the background's score is scaled and shifted: exact where one class competes with the background,
        and nearly exact elsewhere.
        """
        ...

    def plain(self) -> nn.Module:
        """The library's own model (the object that is trained, not a copy) in eval mode; its state loads without rl_det."""
        ...


@runtime_checkable
class Traceable(Protocol):
    """A Detector whose work on one image torch can trace, so that it can leave as ONNX."""

    @property
    def traces_any_size(self) -> bool:
        """Whether one trace holds for images of every size; else for images of the traced one."""
        ...

    def traced(self, image: Float[Tensor, "3 _ _"]) -> tuple[Encoded, HeadOutput]:
        """What `encode` and `head` give for one image, by operations of tensors alone; the encoding has no features.

        The number of proposals is always the same; the mask tells which are real.
        """
        ...
