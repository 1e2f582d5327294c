"""Post-processing with settings for each image: score threshold, hard or soft NMS, maximum number of detections."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.compiled import compilable, compiled
from rl_det.ap.suppression import NmsRoom, room_for_nms, suppress_image, suppression_iou
from rl_det.ap.threads import kept, share_out


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
    taken, left = np.zeros(mask.shape, dtype=np.bool_), scores.copy()
    share_out(
        _soft_nms, len(mask), partial(room_for_soft_nms, mask.shape[1]), boxes, labels, scores, mask,
        s.score_threshold, s.nms_iou, s.sigma, s.max_detections, taken, left,
    )  # fmt: skip
    return DetectionBatch(boxes=boxes, labels=labels, scores=left, mask=taken)


class SoftNmsRoom(NamedTuple):
    """`NmsRoom`, and room to mark those that wait."""

    hard: NmsRoom
    waiting: np.ndarray  # [N]


@kept
def room_for_soft_nms(num_candidates: int) -> SoftNmsRoom:
    """Empty `SoftNmsRoom`."""
    return SoftNmsRoom(room_for_nms(num_candidates), np.zeros(num_candidates, dtype=np.bool_))


@compiled
def _soft_nms(
    first: int, end: int, room: Any, boxes: Any, labels: Any, scores: Any, mask: Any, score_threshold: Any, nms_iou: Any,
    sigma: Any, max_detections: Any, taken: Any, left: Any,
) -> None:  # fmt: skip
    """`soft_nms` for a slice of the images; `left` are the scores."""
    num_candidates, (survivors, sort), waiting = labels.shape[1], room.hard, room.waiting
    for r in range(first, end):
        most = min(num_candidates, max_detections[r])
        if sigma[r] == np.inf:  # nothing decays, so one walk down the ranking does it
            count = suppress_image(
                boxes[r], labels[r], scores[r], mask[r], score_threshold[r], nms_iou[r], survivors, sort
            )
        else:
            for i in range(num_candidates):
                waiting[i] = mask[r, i]
            count = soften(
                boxes[r], labels[r], left[r], waiting, score_threshold[r], nms_iou[r], sigma[r], survivors[:most]
            )
        for k in range(min(count, most)):
            taken[r, survivors[k]] = True


@compilable
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


def nearest_above(
    boxes: Float32[np.ndarray, "R N 4"],
    labels: Int64[np.ndarray, "R N"],
    scores: Float64[np.ndarray, "R N"],
    mask: Bool[np.ndarray, "R N"],
) -> Float64[np.ndarray, "R N"]:
    """Each candidate's largest IoU with a candidate of its class that ranks above it; 0 if there is none."""
    nearest = np.zeros(mask.shape)
    share_out(_nearest_above, len(mask), tuple, boxes, labels, scores, mask, nearest)
    return nearest


@compiled
def _nearest_above(first: int, end: int, _: Any, boxes: Any, labels: Any, scores: Any, mask: Any, nearest: Any) -> None:
    """`nearest_above` for a slice of the images."""
    num_candidates = labels.shape[1]
    for r in range(first, end):
        for i in range(num_candidates):
            for j in range(num_candidates):
                above = scores[r, j] > scores[r, i] or (scores[r, j] == scores[r, i] and j < i)
                if above and mask[r, i] and mask[r, j] and labels[r, j] == labels[r, i]:
                    nearest[r, i] = max(nearest[r, i], suppression_iou(boxes[r, i], boxes[r, j]))
