"""As `average_precision`, where the boxes of an episode's image move too: the change of AP, and the part of shift and move."""

from dataclasses import fields
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rl_det.metrics.batch import TruthBatch
from rl_det.metrics.box_moves import what_moves_are_worth
from rl_det.metrics.candidate_pool import CandidatePool
from rl_det.metrics.relations import Relations


class MoveReward(Protocol):
    """R episodes, each a change of one image's scores and boxes while the P - 1 other images of the pool keep theirs.

    `relations` are those of `boxes` and `truths`. Returns the change against the baseline [R], and for each candidate what
    its new score alone would change, and what its new box alone would, all else keeping to the baseline [R, N, 2].
    """

    def __call__(
        self,
        relations: Relations,
        truths: TruthBatch,
        boxes: Float32[np.ndarray, "P N 4"],
        baseline: Float64[np.ndarray, "P N"],
        images: Int64[np.ndarray, " R"],
        scores: Float64[np.ndarray, "R N"],
        moved: Float32[np.ndarray, "R N 4"],
        *,
        nms_iou: float,
    ) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N 2"]]: ...


def pool_ap(
    relations: Relations,
    truths: TruthBatch,
    boxes: Float32[np.ndarray, "P N 4"],
    baseline: Float64[np.ndarray, "P N"],
    images: Int64[np.ndarray, " R"],
    scores: Float64[np.ndarray, "R N"],
    moved: Float32[np.ndarray, "R N 4"],
    *,
    nms_iou: float,
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N 2"]]:
    """The exact change of the pool's mAP, through NMS and COCO's ten IoU thresholds: the default."""
    pool = CandidatePool(relations, baseline, nms_iou=nms_iou)
    _, without = pool.what_if(images, baseline[images], scores)
    change, worth = what_moves_are_worth(pool, boxes, truths, images, scores, moved)
    return change, np.stack([-without, worth], -1)


def image_ap(
    relations: Relations,
    truths: TruthBatch,
    boxes: Float32[np.ndarray, "P N 4"],
    baseline: Float64[np.ndarray, "P N"],
    images: Int64[np.ndarray, " R"],
    scores: Float64[np.ndarray, "R N"],
    moved: Float32[np.ndarray, "R N 4"],
    *,
    nms_iou: float,
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N 2"]]:
    """The exact change of the image's own mAP over the classes that it holds; 0 for an image without true boxes."""
    rewards, credits = np.zeros(len(images)), np.zeros((*scores.shape, 2))
    for image in np.unique(images):
        episodes, own = np.flatnonzero(images == image), slice(image, image + 1)
        rewards[episodes], credits[episodes] = pool_ap(
            Relations(**{f.name: getattr(relations, f.name)[own] for f in fields(Relations)}),
            TruthBatch(**{f.name: getattr(truths, f.name)[own] for f in fields(TruthBatch)}),
            boxes[own],
            baseline[own],
            np.zeros(len(episodes), dtype=np.int64),
            scores[episodes],
            moved[episodes],
            nms_iou=nms_iou,
        )
    return rewards, credits
