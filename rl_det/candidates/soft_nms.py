"""Post-processing with settings for each image: score threshold, hard or soft NMS, maximum number of detections."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numba import prange

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.suppression import suppress_image, suppression_iou


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of R images. Infinite `sigma` is hard NMS; `nms_iou` 1 is Bodla et al.'s Gaussian soft-NMS."""

    score_threshold: Float64[np.ndarray, " R"]
    nms_iou: Float64[np.ndarray, " R"]
    sigma: Float64[np.ndarray, " R"]
    max_detections: Int64[np.ndarray, " R"]

    @classmethod
    def fixed(
        cls, num_images: int, score_threshold: float, nms_iou: float, sigma: float, max_detections: int
    ) -> "Settings":
        """The same settings for all images."""
        return cls(
            score_threshold=np.full(num_images, score_threshold, dtype=np.float64),
            nms_iou=np.full(num_images, nms_iou, dtype=np.float64),
            sigma=np.full(num_images, sigma, dtype=np.float64),
            max_detections=np.full(num_images, max_detections, dtype=np.int64),
        )

    def __post_init__(self) -> None:
        limits = (
            (self.score_threshold, 0, 1, "score_threshold"), (self.nms_iou, 0, 1, "nms_iou"),
            (self.sigma, 1e-6, np.inf, "sigma"), (self.max_detections, 0, np.inf, "max_detections"),
        )  # fmt: skip
        for values, low, high, name in limits:
            wrong = np.flatnonzero(~((values >= low) & (values <= high)))
            if len(wrong):
                raise ValueError(f"{name} must lie in [{low}, {high}]; got {values[wrong[0]]} for image {wrong[0]}")


def soft_nms(
    boxes: Float32[np.ndarray, "R N 4"],
    labels: Int64[np.ndarray, "R N"],
    scores: Float64[np.ndarray, "R N"],
    mask: Bool[np.ndarray, "R N"],
    settings: Settings,
) -> DetectionBatch:
    """The remaining detections at their old indices: probabilities after the decay, and a mask of those that remain.

    The algorithm takes the best remaining candidate by its present score, again and again. Each one removes those of
    its class whose IoU with it is above `nms_iou`, and multiplies the scores of the others of its class by exp(-IoU^2 /
    sigma) (Bodla et al. 2017, eq. 5). It ends when the best score is under `score_threshold`, or when `max_detections`
    are taken. Ties go to the lower index.
    """
    s = settings
    taken, left = _soft_nms(boxes, labels, scores, mask, s.score_threshold, s.nms_iou, s.sigma, s.max_detections)
    return DetectionBatch(boxes=boxes, labels=labels, scores=left, mask=taken)


@compiled_in_parallel
def _soft_nms(
    boxes: Any, labels: Any, scores: Any, mask: Any, score_threshold: Any, nms_iou: Any, sigma: Any, max_detections: Any
) -> Any:
    """The compiled part of `soft_nms`, for all images."""
    num_images, num_candidates = labels.shape
    taken, left = np.zeros((num_images, num_candidates), dtype=np.bool_), scores.copy()
    for r in prange(num_images):
        survivors, most = np.zeros(num_candidates, dtype=np.int64), min(num_candidates, max_detections[r])
        if sigma[r] == np.inf:  # nothing decays, so one walk down the ranking does it
            count = suppress_image(boxes[r], labels[r], scores[r], mask[r], score_threshold[r], nms_iou[r], survivors)
        else:
            count = soften(
                boxes[r], labels[r], left[r], mask[r].copy(), score_threshold[r], nms_iou[r], sigma[r], survivors[:most]
            )
        for k in range(min(count, most)):
            taken[r, survivors[k]] = True
    return taken, left


@compiled
def soften(
    boxes: Any, labels: Any, left: Any, waiting: Any, least: float, nms_iou: float, sigma: float, survivors: Any
) -> int:
    """Soft-NMS of those that wait: write whom it takes, until no room is left; returns how many. `left` are the scores.

    Another walk than hard NMS: as scores decay, who comes next is known only when all before have been taken.
    """
    for count in range(len(survivors)):
        best = -1
        for i in range(len(left)):
            if waiting[i] and (best < 0 or left[i] > left[best]):
                best = i
        if best < 0 or left[best] < least:
            return count
        waiting[best], survivors[count] = False, best
        for i in range(len(left)):
            if waiting[i] and labels[i] == labels[best]:
                iou = np.float64(suppression_iou(boxes[i], boxes[best]))
                if iou > nms_iou:
                    waiting[i] = False
                else:
                    left[i] *= np.exp(-iou * iou / sigma)
    return len(survivors)


@compiled_in_parallel
def nearest_above(boxes: Any, labels: Any, scores: Any, mask: Any) -> Any:
    """Each candidate's largest IoU with a candidate of its class that ranks above it, float64 [R, N]; 0 if there is none."""
    num_images, num_candidates = labels.shape
    nearest = np.zeros((num_images, num_candidates))
    for r in prange(num_images):
        for i in range(num_candidates):
            for j in range(num_candidates):
                above = scores[r, j] > scores[r, i] or (scores[r, j] == scores[r, i] and j < i)
                if above and mask[r, i] and mask[r, j] and labels[r, j] == labels[r, i]:
                    nearest[r, i] = max(nearest[r, i], suppression_iou(boxes[r, i], boxes[r, j]))
    return nearest
