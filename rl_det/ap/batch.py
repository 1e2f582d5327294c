"""Detections and true boxes of B images, padded to rectangles -> the same, checked: the engine's input.

Nothing here needs torch, so that the engine imports in a blink; `rl_det.ap.padding` makes batches of torchvision's dicts.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from rl_det.ap.compiled import compiled


class DetectionArrays(NamedTuple):
    """A `DetectionBatch` in numpy, as the compiled functions take it."""

    boxes: np.ndarray  # [B, N, 4]
    labels: np.ndarray  # [B, N]
    scores: np.ndarray  # [B, N]
    mask: np.ndarray  # [B, N]


class TruthArrays(NamedTuple):
    """A `TruthBatch` in numpy, as the compiled functions take it."""

    boxes: np.ndarray  # [B, G, 4]
    labels: np.ndarray  # [B, G]
    area: np.ndarray  # [B, G]
    iscrowd: np.ndarray  # [B, G]
    mask: np.ndarray  # [B, G]


Batch = TypeVar("Batch", bound="ImageRows")


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """A batch whose fields all have its images along the first axis."""

    def __getitem__(self: Batch, images: Int[Any, " b"] | slice) -> Batch:
        """Some of the images, in the order asked for."""
        return replace(self, **{field.name: getattr(self, field.name)[images] for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class DetectionBatch(ImageRows):
    """What a detector found in B images; `mask` is False on padding. Boxes are xyxy, labels 1..C, scores any finite numbers.

    numpy arrays, or torch tensors of one device. Scores are ranked in float64, ties by the lower index.
    """

    boxes: Float[Any, "B N 4"]
    labels: Int[Any, "B N"]
    scores: Float[Any, "B N"]
    mask: Bool[Any, "B N"]

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def arrays(self) -> DetectionArrays:
        """The same for the compiled functions."""
        return DetectionArrays(self.boxes, self.labels, self.scores, self.mask)


@dataclass(frozen=True, kw_only=True)
class TruthBatch(ImageRows):
    """What is truly in B images; `mask` is False on padding. `area` is the annotation's own, not the box's."""

    boxes: Float[Any, "B G 4"]
    labels: Int[Any, "B G"]
    area: Float[Any, "B G"]
    iscrowd: Bool[Any, "B G"]
    mask: Bool[Any, "B G"]

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def arrays(self) -> TruthArrays:
        """The same for the compiled functions."""
        return TruthArrays(self.boxes, self.labels, self.area, self.iscrowd, self.mask)


def check(detections: DetectionBatch, truths: TruthBatch, num_classes: int) -> None:
    """Raise ValueError, naming argument, image and index, where the two cannot be evaluated together."""
    check_shapes(detections, truths, num_classes)
    check_precision(detections, truths)
    d, t = detections, truths
    checks = (
        ("detections", d.mask, d.boxes, d.labels, "scores", d.scores),
        ("truths", t.mask, t.boxes, t.labels, "area", t.area),
    )
    for argument, mask, boxes, labels, name, numbers in checks:
        fault, image, index = first_fault(mask, boxes, labels, numbers, num_classes, name == "area")
        if fault != SOUND:
            raise_fault(fault, argument, name, image, index, boxes, labels, numbers, num_classes)


def check_precision(detections: DetectionBatch, truths: TruthBatch) -> None:
    """Raise ValueError for numbers in a precision that compiled code does not have."""
    for argument, batch in (("detections", detections), ("truths", truths)):
        for field, values in vars(batch).items():
            dtype = getattr(values, "dtype", None)
            if field in ("boxes", "scores", "area") and dtype not in (np.float32, np.float64):
                raise ValueError(
                    f"{argument}.{field} must be float32 or float64, in numpy; got {dtype}; "
                    "rl_det.ap.padding makes such batches of tensors of any precision"
                )


def check_shapes(detections: DetectionBatch, truths: TruthBatch, num_classes: int) -> None:
    """Raise ValueError where the arrays' shapes disagree."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    for argument, batch in (("detections", detections), ("truths", truths)):
        shape = tuple(batch.mask.shape)
        for field, values in vars(batch).items():
            needed = (*shape, 4) if field == "boxes" else shape
            if tuple(values.shape) != needed:
                raise ValueError(
                    f"{argument}.{field} must have shape {needed}, as {argument}.mask has {shape}; got {tuple(values.shape)}"
                )
    if len(detections) != len(truths):
        raise ValueError(
            f"detections and truths must hold the same images; got {len(detections)} and {len(truths)} of them"
        )


SOUND, NOT_FINITE_BOX, INSIDE_OUT, LABEL_OUT_OF_RANGE, NOT_FINITE, NEGATIVE = range(6)


@compiled
def first_fault(mask: Any, boxes: Any, labels: Any, numbers: Any, num_classes: int, positive: bool) -> Any:
    """What is wrong first, in which image, at which index."""
    num_images, size = mask.shape
    for b in range(num_images):
        for i in range(size):
            if not mask[b, i]:
                continue
            x1, y1, x2, y2 = boxes[b, i, 0], boxes[b, i, 1], boxes[b, i, 2], boxes[b, i, 3]
            if not (np.isfinite(x1) and np.isfinite(y1) and np.isfinite(x2) and np.isfinite(y2)):
                return NOT_FINITE_BOX, b, i
            if x2 < x1 or y2 < y1:
                return INSIDE_OUT, b, i
            if labels[b, i] < 1 or labels[b, i] > num_classes:
                return LABEL_OUT_OF_RANGE, b, i
            if not np.isfinite(numbers[b, i]):
                return NOT_FINITE, b, i
            if positive and numbers[b, i] < 0:
                return NEGATIVE, b, i
    return SOUND, -1, -1


def raise_fault(
    fault: int, argument: str, name: str, image: int, index: int, boxes: Any, labels: Any, numbers: Any, classes: int
) -> None:
    """The ValueError that says what `first_fault` found."""
    field, must, value = {
        NOT_FINITE_BOX: ("boxes", "be finite", boxes),
        INSIDE_OUT: ("boxes", "have x1 <= x2 and y1 <= y2", boxes),
        LABEL_OUT_OF_RANGE: ("labels", f"be in 1..{classes}", labels),
        NOT_FINITE: (name, "be finite", numbers),
        NEGATIVE: (name, "not be negative", numbers),
    }[fault]
    raise ValueError(
        f"{argument}.{field} must {must}; got {value[image, index].tolist()} in image {image} at index {index}"
    )
