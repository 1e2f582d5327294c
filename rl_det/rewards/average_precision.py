"""Scores of a pool of images, and other scores for one of them -> the exact change of AP, and each candidate's part in it."""

from dataclasses import fields
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from rl_det.metrics.candidate_pool import CandidatePool
from rl_det.metrics.relations import Relations


@runtime_checkable
class Reward(Protocol):
    """R episodes, each a change of one image's scores while the P - 1 other images of the pool keep theirs.

    `baseline` are the pool's scores, `scores` those of image images[r] in episode r. Returns the change against the
    baseline [R], and what each candidate alone would change, all others keeping to the baseline [R, N]. A score of -inf
    takes a candidate out.
    """

    def __call__(
        self,
        relations: Relations,
        baseline: Float64[np.ndarray, "P N"],
        images: Int64[np.ndarray, " R"],
        scores: Float64[np.ndarray, "R N"],
        *,
        nms_iou: float,
    ) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N"]]: ...


def pool_ap(
    relations: Relations,
    baseline: Float64[np.ndarray, "P N"],
    images: Int64[np.ndarray, " R"],
    scores: Float64[np.ndarray, "R N"],
    *,
    nms_iou: float,
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N"]]:
    """The exact change of the pool's mAP, through NMS and COCO's ten IoU thresholds: the default.

    The ranking is that of all images together, so a false positive of a class that the image does not hold costs what it
    costs the data set, and a shift of all an image's scores is judged.
    """
    pool = CandidatePool(relations, baseline, nms_iou=nms_iou)
    change, _ = pool.what_if(images, scores)
    _, without = pool.what_if(images, baseline[images], scores)
    return change, -without


def image_ap(
    relations: Relations,
    baseline: Float64[np.ndarray, "P N"],
    images: Int64[np.ndarray, " R"],
    scores: Float64[np.ndarray, "R N"],
    *,
    nms_iou: float,
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N"]]:
    """The exact change of the image's own mAP over the classes that it holds; 0 for an image without true boxes.

    It is blind to a common shift of an image's scores and to false positives of classes that the image does not hold.
    """
    rewards, credits = np.zeros(len(images)), np.zeros_like(scores)
    for image in np.unique(images):
        episodes = np.flatnonzero(images == image)
        alone = Relations(**{f.name: getattr(relations, f.name)[image : image + 1] for f in fields(Relations)})
        own_baseline = baseline[image : image + 1]
        first = np.zeros(len(episodes), dtype=np.int64)
        rewards[episodes], credits[episodes] = pool_ap(alone, own_baseline, first, scores[episodes], nms_iou=nms_iou)
    return rewards, credits
