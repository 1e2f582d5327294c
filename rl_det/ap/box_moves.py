"""A pool of candidates and moved boxes of single images -> what each move alone is worth, and all of them with new scores.

As in `rl_det.ap.candidate_pool`, one class of one image is resolved anew at a time. Here who suppresses whom and who
matches whom changes too, but only in the row and the column of the box that moves.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numba import prange

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.candidate_pool import (
    CandidatePool,
    Related,
    list_change,
    members_of,
    related_of,
    room_for,
    share_of_class,
    sort_group,
)
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.options import COCO
from rl_det.ap.preference import ClassedTruths, Wishes, box_of, class_truths, room_for_truths, room_for_wishes
from rl_det.ap.ranked_lists import group_of, list_of
from rl_det.ap.relations import list_partners
from rl_det.ap.suppression import suppress, suppression_iou


class Placed(NamedTuple):
    """Scores and boxes of candidates: before the moves all of the pool's [P, ...], after them one image's."""

    scores: np.ndarray  # [P, N] or [N]
    boxes: np.ndarray  # [P, N, 4] or [N, 4]


class Target(NamedTuple):
    """What a moved box of one image may match, and the room to find out."""

    truths: ClassedTruths
    wishes: Wishes
    needed_iou: np.ndarray  # [T]


def what_moves_are_worth(
    pool: CandidatePool,
    boxes: Float32[np.ndarray, "P N 4"],
    truths: TruthBatch,
    images: Int64[np.ndarray, " R"],
    scores: Float64[np.ndarray, "R N"],
    moved: Float32[np.ndarray, "R N 4"],
) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N"]]:
    """The change of `pool.mean_ap` if image images[r] had scores[r] and moved[r]; and if one box alone moved, for each.

    `boxes` and `truths` are those that the pool's relations were made of. Exact, through NMS and matching. ValueError on
    boxes that are not finite or turned inside out, naming edit ("image") and candidate ("index").
    """
    r, num_classes = pool.relations, pool.relations.positives.shape[1]
    edited = DetectionBatch(boxes=moved, labels=r.labels[images], scores=np.zeros(scores.shape), mask=r.mask[images])
    check(edited, truths[images], num_classes)
    before = Placed(pool.scores, boxes)
    change, worth = _moves(
        images, scores, moved, before, pool.pooled, truths.arrays, COCO.needed_iou, pool.ranking.standing,
        pool.ranking.ranked,
    )  # fmt: skip
    return change, worth


@compiled_in_parallel
def _moves(
    images: Any, scores: Any, moved: Any, before: Any, pooled: Any, truths: Any, needed_iou: Any, standing: Any,
    ranked: Any,
) -> Any:  # fmt: skip
    """`what_moves_are_worth` for R edits, each on its own, in parallel."""
    changes, worth = np.zeros(len(scores)), np.zeros(scores.shape)
    scale = share_of_class(ranked)
    for r in prange(len(scores)):
        after = Placed(scores[r], moved[r])
        target = target_of(images[r], truths, needed_iou, len(ranked.positives))
        changes[r] = image_moves(images[r], before, after, pooled, target, standing, ranked, scale, worth[r])
    return changes, worth


@compiled
def target_of(image: int, truths: Any, needed_iou: Any, num_classes: int) -> Any:
    """One image's `Target`."""
    num_truths = max(1, truths.labels.shape[1])
    target = Target(room_for_truths(num_truths, num_classes), room_for_wishes(num_truths), needed_iou)
    class_truths(image, truths, target.truths)
    return target


@compiled
def image_moves(
    image: int, before: Any, after: Any, pooled: Any, target: Any, standing: Any, ranked: Any, scale: float, worth: Any
) -> float:
    """The change of the mAP if one image had `after`; `worth` receives what each box's move alone is worth."""
    scores, boxes, moved = before.scores[image], before.boxes[image], after.boxes
    num_candidates = len(scores)
    near, partners, passes, crowds = copied(image, pooled, target)
    near_before, partners_before, passes_before, _ = related_of(image, pooled)
    starts, _, sides, _ = target.truths
    places, overlaps, bits = target.wishes
    needed_iou, length = target.needed_iou, pooled.partners.shape[2]
    order, survivors = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
    room = room_for(num_candidates, len(crowds), standing.keys.shape[1])
    total = 0.0
    for c in range(len(ranked.positives)):
        members = members_of(image, c, pooled)
        if len(members) == 0 or ranked.positives[c] == 0:
            continue
        old, own_list = group_of(image, c, standing), list_of(c, ranked)
        count = sort_group(scores, members, order)
        for i in members:
            if np.array_equal(moved[i], boxes[i]):
                continue
            place(i, moved[i], boxes, members, near)
            list_partners(
                box_of(moved, i), starts[c + 1], starts[c + 2], sides, crowds, needed_iou, places, overlaps, bits,
                partners[i], passes[i],
            )  # fmt: skip
            kept = suppress(order, 0, count, near, None, pooled.nms_iou, survivors, 0)
            worth[i] = scale * list_change(
                image, survivors[:kept], scores, partners, passes, crowds, old, own_list, room
            )
            for j in members:
                near[i, j] = near[j, i] = near_before[i, j]
            partners[i, length:] = -1
            partners[i, :length], passes[i, :length] = partners_before[i], passes_before[i]
        for i in members:
            place(i, moved[i], moved, members, near)
            list_partners(
                box_of(moved, i), starts[c + 1], starts[c + 2], sides, crowds, needed_iou, places, overlaps, bits,
                partners[i], passes[i],
            )  # fmt: skip
        count = sort_group(after.scores, members, order)
        kept = suppress(order, 0, count, near, None, pooled.nms_iou, survivors, 0)
        total += scale * list_change(
            image, survivors[:kept], after.scores, partners, passes, crowds, old, own_list, room
        )
    return total


@compiled
def copied(image: int, pooled: Any, target: Any) -> Any:
    """One image's `Related` that can be changed in place, with room for all partners."""
    num_candidates, length = pooled.partners.shape[1:]
    num_truths = len(target.truths.crowds)
    partners = np.full((num_candidates, num_truths), -1, dtype=np.int16)
    passes = np.zeros((num_candidates, num_truths), dtype=np.uint32)
    partners[:, :length], passes[:, :length] = pooled.partners[image], pooled.passes[image]
    return Related(pooled.overlap[image].copy(), partners, passes, target.truths.crowds)


@compiled
def place(i: int, box: Any, others: Any, members: Any, overlap: Any) -> None:
    """Write whom candidate i overlaps, now that it is at `box`, among those of its class."""
    for j in members:
        if j != i:
            overlap[i, j] = overlap[j, i] = suppression_iou(box, others[j])
