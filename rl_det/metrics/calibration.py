"""Detections and targets -> whether a score means what it says, and the monotone map that would mend it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torchvision.ops import box_area, box_iou

from rl_det.types import Detections, Target

NUM_BINS = 20
CORRECT_IOU = 0.5


class Recalibration(NamedTuple):
    """logit -> scale * logit + shift; the scale is positive, so that no order changes."""

    scale: float
    shift: float


def correct_detections(detections: Detections, target: Target) -> tuple[Bool[Tensor, " M"], Bool[Tensor, " M"]]:
    """Which detections are true positives at IoU 0.5, and which count at all: those that only a crowd explains do not.

    Best score first, each takes the free true box of its class with the highest IoU, as COCO does.
    """
    count = len(detections["labels"])
    correct, counted = torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    boxes, labels = detections["boxes"].cpu(), detections["labels"].cpu()
    objects = ~target.iscrowd.cpu()
    iou = box_iou(boxes, target.boxes.cpu()) * (labels[:, None] == target.labels.cpu())
    iou[:, ~objects] = 0.0
    absorbed = _covered(boxes, target.boxes.cpu()[~objects]) * (labels[:, None] == target.labels.cpu()[~objects])
    for detection in detections["scores"].cpu().argsort(descending=True, stable=True).tolist():
        best, match = iou[detection].max(0) if iou.shape[1] else (torch.tensor(0.0), torch.tensor(0))
        if best >= CORRECT_IOU:
            correct[detection] = True
            iou[:, match] = 0.0
        elif absorbed.shape[1] and absorbed[detection].max() >= CORRECT_IOU:
            counted[detection] = False
    return correct, counted


def _covered(boxes: Float[Tensor, "M 4"], crowds: Float[Tensor, "G 4"]) -> Float[Tensor, "M G"]:
    """The share of each box that lies in each crowd."""
    sides = torch.minimum(boxes[:, None, 2:], crowds[:, 2:]) - torch.maximum(boxes[:, None, :2], crowds[:, :2])
    covered: Tensor = sides.clamp(min=0).prod(-1) / box_area(boxes)[:, None].clamp(min=1e-9)
    return covered


def scored(
    detections: Sequence[Detections], targets: Sequence[Target]
) -> tuple[Float64[np.ndarray, " M"], Bool[np.ndarray, " M"]]:
    """The scores of all detections that count, and which of them are correct."""
    scores, hits = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for found, target in zip(detections, targets, strict=True):
        correct, counted = correct_detections(found, target)
        scores.append(found["scores"].cpu()[counted].double().numpy())
        hits.append(correct[counted].numpy())
    return np.concatenate(scores), np.concatenate(hits)


def detection_calibration_error(scores: Float64[np.ndarray, " M"], correct: Bool[np.ndarray, " M"]) -> float:
    """D-ECE by confidence alone (Kueppers et al. 2020, eq. 5): mean over bins of |precision - mean score|, by their size.

    In [0, 1]; NaN without detections.
    """
    if not len(scores):
        return float("nan")
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=correct - scores, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def fit_recalibration(scores: Float64[np.ndarray, " M"], correct: Bool[np.ndarray, " M"]) -> Recalibration:
    """Platt's scaling of the logits by maximum likelihood (Platt 1999); the identity where nothing can be learned."""
    identity = Recalibration(1.0, 0.0)
    if correct.all() or not correct.any():
        return identity
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    logits = np.log(clipped) - np.log1p(-clipped)
    fitted = LogisticRegression(C=np.inf).fit(logits[:, None], correct)
    scale = float(fitted.coef_[0, 0])
    return Recalibration(scale, float(fitted.intercept_[0])) if scale > 0 else identity
