"""A pool of candidates and moved boxes of single images -> what each move alone is worth, and all of them with new scores.

As in `rl_det.ap.candidate_pool`, one class of one image is resolved anew at a time. Here whom the moved box overlaps and
matches changes too, so both are computed anew for it alone.
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
    same,
    sort_group,
)
from rl_det.ap.compiled import compiled, inlined
from rl_det.ap.preference import ClassedTruths, Wishes, box_of, class_truths, room_for_truths, room_for_wishes
from rl_det.ap.ranked_lists import group_of, list_of
from rl_det.ap.relations import list_partners
from rl_det.ap.suppression import suppress, suppressed, suppression_iou
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
    """Scratch memory for one image after another: whom its candidates may match, as a box moves; and one label for all."""

    orders: Orders
    lists: Room
    truths: ClassedTruths
    wishes: Wishes
    one_class: np.ndarray  # [N]
    partners: np.ndarray  # [N, G + 1]
    passes: np.ndarray  # [N, G + 1]


def room_for_moves(pool: CandidatePool) -> MovesRoom:
    """Empty `MovesRoom`."""
    num_candidates, num_truths = pool.scores.shape[1], pool.relations.kinds.shape[1]
    return MovesRoom(
        *pool.room(),
        room_for_truths(num_truths, pool.relations.positives.shape[1]),
        room_for_wishes(num_truths),
        np.zeros(num_candidates, dtype=np.int64),
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
    """The change of the mAP if one image had `after`; `worth` receives what each box's move alone is worth.

    A move alone changes nothing if NMS removes the box as before, or leaves it and the others as before, and the box may
    match what it could: so most moves cost a few overlaps.
    """
    scores, boxes, moved = before.scores[image], before.boxes[image], after.boxes
    room, partners, passes = rooms.lists, rooms.partners, rooms.passes
    near, partners_before, passes_before, kinds = related_of(image, pooled)
    _, sort, _, survivors, others = rooms.orders
    total = 0.0
    for c in range(len(ranked.positives)):
        members = pooled.members[image, pooled.starts[image, c + 1] : pooled.starts[image, c + 2]]
        if len(members) == 0 or ranked.positives[c] == 0:
            continue
        for i in members:
            copy_matches(partners_before[i], passes_before[i], partners[i], passes[i])
        old, own_list = group_of(image, c, standing), list_of(c, ranked)
        count = sort_group(scores, members, sort)
        kept, above = suppress(sort.order, 0, count, near, None, pooled.nms_iou, survivors, 0), 0
        for position in range(count):
            i = sort.order[position]
            survived = above < kept and survivors[above] == i
            if unlike(moved[i], boxes[i]):
                survives = not overlaps_one(moved[i], boxes, survivors, above, pooled.nms_iou)
                if survived or survives:
                    size = suppress_others(
                        sort.order, position, count, moved[i], survives, boxes, near, pooled.nms_iou, survivors, above, others
                    )  # fmt: skip
                    match_box(box_of(moved, i), c, matchable, kinds, partners[i], passes[i])
                    if not (
                        same(survivors, kept, others, size)
                        and same_matches(partners[i], passes[i], partners_before[i], passes_before[i])
                    ):
                        worth[i] = scale * list_change(
                            image, others[:size], scores, partners, passes, kinds, old, own_list, room
                        )
                    copy_matches(partners_before[i], passes_before[i], partners[i], passes[i])
            above += survived
        count = sort_group(after.scores, members, sort)
        kept = suppress(sort.order, 0, count, moved, rooms.one_class, pooled.nms_iou, survivors, 0)
        for k in range(kept):
            i = survivors[k]
            match_box(box_of(moved, i), c, matchable, kinds, partners[i], passes[i])
        total += scale * list_change(
            image, survivors[:kept], after.scores, partners, passes, kinds, old, own_list, room
        )
    return total


@inlined
def match_box(box: Any, c: int, matchable: Any, kinds: Any, partners: Any, passes: Any) -> None:
    """Write whom a box of class c may match, with -1 at the end, and at which thresholds."""
    starts, _, sides, crowds = matchable.truths
    places, overlaps, bits = matchable.wishes
    list_partners(
        box, starts[c + 1], starts[c + 2], sides, crowds, kinds, matchable.needed_iou, matchable.area_range,
        places, overlaps, bits, partners, passes,
    )  # fmt: skip


@inlined
def unlike(box: Any, other: Any) -> Any:
    """Whether two boxes differ."""
    return box[0] != other[0] or box[1] != other[1] or box[2] != other[2] or box[3] != other[3]


@inlined
def copy_matches(partners: Any, passes: Any, to_partners: Any, to_passes: Any) -> None:
    """Write whom a candidate may match where there is room for more, with -1 at the end."""
    k = 0
    while k < len(partners) and partners[k] >= 0:
        to_partners[k], to_passes[k] = partners[k], passes[k]
        k += 1
    if k < len(to_partners):
        to_partners[k] = -1


@inlined
def same_matches(partners: Any, passes: Any, other_partners: Any, other_passes: Any) -> bool:
    """Whether a candidate may match the same true boxes at the same thresholds; the first has at least as much room."""
    k = 0
    while k < len(other_partners) and other_partners[k] >= 0:
        if partners[k] != other_partners[k] or passes[k] != other_passes[k]:
            return False
        k += 1
    return k == len(partners) or partners[k] < 0


@inlined
def overlaps_one(box: Any, boxes: Any, survivors: Any, kept: int, nms_iou: float) -> bool:
    """Whether one of the first `kept` survivors suppresses this box."""
    k = 0
    while k < kept and not suppression_iou(box, boxes[survivors[k]]) > nms_iou:
        k += 1
    return k < kept


@inlined
def suppress_others(
    order: Any, position: int, count: int, box: Any, survives: bool, boxes: Any, near: Any, nms_iou: float, survivors: Any,
    above: int, others: Any,
) -> int:  # fmt: skip
    """Write to `others` who survives with the candidate at `position` moved to `box`; returns how many.

    `above` of the survivors stand above it, and stay.
    """
    for k in range(above):
        others[k] = survivors[k]
    size = above
    for later in range(position + 1, count):
        j = order[later]
        if not (survives and suppression_iou(box, boxes[j]) > nms_iou) and not suppressed(
            j, near, None, nms_iou, others, size
        ):
            others[size] = j
            size += 1
    if survives:
        for k in range(size, above, -1):
            others[k] = others[k - 1]
        others[above] = order[position]
        size += 1
    return size
