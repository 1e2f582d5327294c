"""A pool of candidates and moved boxes of single images -> what each move alone is worth, and all of them with new scores.

As in `rl_det.ap.candidate_pool`, one class of one image is resolved anew at a time. Here who suppresses whom and who
matches whom changes too, but only in the row and the column of the box that moves.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.candidate_pool import (
    CandidatePool,
    Orders,
    Room,
    list_change,
    related_of,
    sort_group,
)
from rl_det.ap.compiled import compilable, compiled, inlined
from rl_det.ap.preference import ClassedTruths, Wishes, box_of, class_truths, room_for_truths, room_for_wishes
from rl_det.ap.ranked_lists import group_of, list_of
from rl_det.ap.relations import list_partners
from rl_det.ap.suppression import suppress, suppression_iou
from rl_det.ap.threads import share_out


class Placed(NamedTuple):
    """Scores and boxes of candidates: before the moves all of the pool's [P, ...], after them one image's."""

    scores: np.ndarray  # [P, N] or [N]
    boxes: np.ndarray  # [P, N, 4] or [N, 4]


class Matchable(NamedTuple):
    """What a moved box of one image may match, and the room to find out."""

    truths: ClassedTruths
    wishes: Wishes
    needed_iou: np.ndarray  # [T]
    area_range: np.ndarray  # [2]


class MovesRoom(NamedTuple):
    """Scratch memory for one image after another; `overlap`, `partners` and `passes` are its `Related`, as a box moves."""

    orders: Orders
    lists: Room
    truths: ClassedTruths
    wishes: Wishes
    overlap: np.ndarray  # [N, N]
    partners: np.ndarray  # [N, G + 1]
    passes: np.ndarray  # [N, G + 1]


def room_for_moves(pool: CandidatePool) -> MovesRoom:
    """Empty `MovesRoom`."""
    num_candidates, num_truths = pool.scores.shape[1], pool.relations.kinds.shape[1]
    return MovesRoom(
        *pool.room(),
        room_for_truths(num_truths, pool.relations.positives.shape[1]),
        room_for_wishes(num_truths),
        np.zeros((num_candidates, num_candidates), dtype=np.float32),
        np.zeros((num_candidates, num_truths), dtype=np.int16),
        np.zeros((num_candidates, num_truths), dtype=np.uint32),
    )


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
    edited = DetectionBatch(
        boxes=moved, labels=r.labels[images], scores=np.zeros(scores.shape, dtype=np.float32), mask=r.mask[images]
    )
    check(edited, truths[images], num_classes)
    before = Placed(pool.scores, boxes)
    change, worth = np.zeros(len(scores)), np.zeros(scores.shape)
    share_out(
        _moves, len(scores), partial(room_for_moves, pool), images, scores, moved, before, pool.pooled, truths.arrays,
        r.options.needed_iou, np.array(r.options.area_range),
        pool.ranking.standing, pool.ranking.ranked, pool.share_of_class, change, worth,
    )  # fmt: skip
    return change, worth


@compiled
def _moves(
    first: int, end: int, room: Any, images: Any, scores: Any, moved: Any, before: Any, pooled: Any, truths: Any,
    needed_iou: Any, area_range: Any, standing: Any, ranked: Any, scale: float, changes: Any, worth: Any,
) -> None:  # fmt: skip
    """`what_moves_are_worth` for a slice of the edits, each on its own."""
    matchable = Matchable(room.truths, room.wishes, needed_iou, area_range)
    for r in range(first, end):
        class_truths(images[r], truths, matchable.truths)
        after = Placed(scores[r], moved[r])
        changes[r] = image_moves(images[r], before, after, pooled, matchable, standing, ranked, scale, worth[r], room)


@inlined
def image_moves(
    image: int, before: Any, after: Any, pooled: Any, matchable: Any, standing: Any, ranked: Any, scale: float, worth: Any,
    rooms: Any,
) -> float:  # fmt: skip
    """The change of the mAP if one image had `after`; `worth` receives what each box's move alone is worth."""
    scores, boxes, moved = before.scores[image], before.boxes[image], after.boxes
    crowds, room, near, partners, passes = (
        matchable.truths.crowds,
        rooms.lists,
        rooms.overlap,
        rooms.partners,
        rooms.passes,
    )
    copy_related(image, pooled, near, partners, passes)
    near_before, partners_before, passes_before, kinds = related_of(image, pooled)
    starts, _, sides, _ = matchable.truths
    places, overlaps, bits = matchable.wishes
    needed_iou, area_range, length = matchable.needed_iou, matchable.area_range, pooled.partners.shape[2]
    _, sort, _, survivors, _ = rooms.orders
    total = 0.0
    for c in range(len(ranked.positives)):
        members = pooled.members[image, pooled.starts[image, c + 1] : pooled.starts[image, c + 2]]
        if len(members) == 0 or ranked.positives[c] == 0:
            continue
        old, own_list = group_of(image, c, standing), list_of(c, ranked)
        count = sort_group(scores, members, sort)
        for i in members:
            if (
                moved[i, 0] == boxes[i, 0] and moved[i, 1] == boxes[i, 1]
                and moved[i, 2] == boxes[i, 2] and moved[i, 3] == boxes[i, 3]
            ):  # fmt: skip
                continue
            place(i, moved[i], boxes, members, near)
            list_partners(
                box_of(moved, i), starts[c + 1], starts[c + 2], sides, crowds, kinds, needed_iou, area_range,
                places, overlaps, bits, partners[i], passes[i],
            )  # fmt: skip
            kept = suppress(sort.order, 0, count, near, None, pooled.nms_iou, survivors, 0)
            worth[i] = scale * list_change(
                image, survivors[:kept], scores, partners, passes, kinds, old, own_list, room
            )
            for j in members:
                near[i, j] = near[j, i] = near_before[i, j]
            for k in range(partners.shape[1]):
                partners[i, k] = partners_before[i, k] if k < length else -1
                if k < length:
                    passes[i, k] = passes_before[i, k]
        for i in members:
            place(i, moved[i], moved, members, near)
            list_partners(
                box_of(moved, i), starts[c + 1], starts[c + 2], sides, crowds, kinds, needed_iou, area_range,
                places, overlaps, bits, partners[i], passes[i],
            )  # fmt: skip
        count = sort_group(after.scores, members, sort)
        kept = suppress(sort.order, 0, count, near, None, pooled.nms_iou, survivors, 0)
        total += scale * list_change(
            image, survivors[:kept], after.scores, partners, passes, kinds, old, own_list, room
        )
    return total


@inlined
def copy_related(image: int, pooled: Any, overlap: Any, partners: Any, passes: Any) -> None:
    """Write one image's `Related` where it can be changed, with room for all partners."""
    (num_candidates, num_truths), length = partners.shape, pooled.partners.shape[2]
    for i in range(num_candidates):
        for j in range(num_candidates):
            overlap[i, j] = pooled.overlap[image, i, j]
        for k in range(num_truths):
            partners[i, k] = pooled.partners[image, i, k] if k < length else -1
            passes[i, k] = pooled.passes[image, i, k] if k < length else 0


@compilable
def place(i: int, box: Any, others: Any, members: Any, overlap: Any) -> None:
    """Write whom candidate i overlaps, now that it is at `box`, among those of its class."""
    for j in members:
        if j != i:
            overlap[i, j] = overlap[j, i] = suppression_iou(box, others[j])
