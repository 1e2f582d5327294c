"""A pool of candidates, of which a single one changes its score or box -> whom NMS leaves then, without running it for all.

Only the candidate's own class is decided anew, and only from the place on at which its order or an overlap differs.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rl_det.ap.candidate_pool import CandidatePool, Orders, among, moved, precedes, same, sort_group
from rl_det.ap.compiled import compilable, compiled, inlined
from rl_det.ap.sorting import room_for_sort
from rl_det.ap.suppression import suppression_iou
from rl_det.ap.threads import kept as kept_by_thread
from rl_det.ap.threads import share_out

NOTHING_CHANGES = -1


class Asked(NamedTuple):
    """V variants of R images: candidate i of image images[r] alone has scores[r, i] and boxes[r, i].

    Variant numbers[r, i] is that of candidate i; -1 asks for none.
    """

    images: Int64[np.ndarray, " R"]
    scores: Float64[np.ndarray, "R N"]
    boxes: Float32[np.ndarray, "R N 4"]
    numbers: Int64[np.ndarray, "R N"]

    @property
    def num_variants(self) -> int:
        """V."""
        return int(self.numbers.max(initial=-1)) + 1


class Present(NamedTuple):
    """A pool as it is: its candidates' scores and boxes, and the survivors by class, as `Matches` has them."""

    scores: np.ndarray  # [P, N]
    boxes: np.ndarray  # [P, N, 4]
    survivors: np.ndarray  # [P, N]
    starts: np.ndarray  # [P, C + 2]


class VariantRoom(NamedTuple):
    """Scratch memory for one image: its ranked candidates, and what a changed candidate overlaps."""

    orders: Orders
    near: np.ndarray  # [N]
    kept: np.ndarray  # [N]


@kept_by_thread
def room_for_variants(num_candidates: int) -> VariantRoom:
    """Empty `VariantRoom`."""
    indices = np.zeros((3, num_candidates), dtype=np.int64)
    return VariantRoom(
        Orders(np.zeros(num_candidates), room_for_sort(num_candidates), *indices),
        np.zeros(num_candidates, dtype=np.float32), np.zeros(num_candidates, dtype=np.bool_),
    )  # fmt: skip


def present(pool: CandidatePool, boxes: Float32[np.ndarray, "P N 4"]) -> Present:
    """The pool as it is; `boxes` are those that its relations were made of."""
    return Present(pool.scores, boxes, pool.matches.order, pool.matches.starts)


def survivors_of_variants(
    pool: CandidatePool, boxes: Float32[np.ndarray, "P N 4"], asked: Asked
) -> tuple[Bool[np.ndarray, "V N"], Bool[np.ndarray, " V"]]:
    """Whom NMS leaves in each variant's image, and whether its detections are then others than the pool's.

    They are the same if the candidate is as it was, or survives neither before nor after and nobody else is concerned.
    `boxes` are those that the pool's relations were made of.
    """
    kept = np.zeros((asked.num_variants, pool.scores.shape[1]), dtype=np.bool_)
    differs = np.zeros(len(kept), dtype=np.bool_)
    room = partial(room_for_variants, pool.scores.shape[1])
    share_out(_survivors, len(asked.images), room, asked, present(pool, boxes), pool.pooled, kept, differs)
    return kept, differs


@compiled
def _survivors(
    first: int, end: int, room: Any, asked: Any, now: Any, pooled: Any, kept_alone: Any, differs: Any
) -> None:
    """`survivors_of_variants` for a slice of the images."""
    images, all_scores, all_boxes, numbers = asked
    (_, sort, other, _, left), near, kept = room
    for r in range(first, end):
        b = images[r]
        scores, boxes, overlap, starts = now.scores[b], now.boxes[b], pooled.overlap[b], now.starts[b]
        for j in range(len(kept)):
            kept[j] = False
        for k in range(starts[-1]):
            kept[now.survivors[b, k]] = True
        for c in range(len(starts) - 2):
            members = pooled.members[b, pooled.starts[b, c + 1] : pooled.starts[b, c + 2]]
            standing = now.survivors[b, starts[c + 1] : starts[c + 2]]
            count = sort_group(scores, members, sort)
            for i in members:
                v = numbers[r, i]
                if v < 0:
                    continue
                size = survivors_alone(
                    i, all_scores[r, i], all_boxes[r, i], scores, boxes, members, sort.order, count, standing, overlap,
                    pooled.nms_iou, near, other, left,
                )  # fmt: skip
                for j in range(len(kept)):
                    kept_alone[v, j] = kept[j]
                if size != NOTHING_CHANGES:
                    differs[v] = True
                    for j in members:
                        kept_alone[v, j] = False
                    for k in range(size):
                        kept_alone[v, left[k]] = True


@compilable
def survivors_alone(
    i: int, score: float, box: Any, scores: Any, boxes: Any, members: Any, order: Any, count: int, standing: Any,
    overlap: Any, nms_iou: float, near: Any, other: Any, left: Any,
) -> int:  # fmt: skip
    """Write the survivors of a class if candidate i alone had another score and box to `left`; how many they are.

    `NOTHING_CHANGES` if the class's detections are as they were. `near` and `other` are scratch memory.
    """
    still = stands_still(box, boxes[i])
    if (still and score == scores[i]) or (score == -np.inf and scores[i] == -np.inf):
        return NOTHING_CHANGES
    for j in members:
        near[j] = overlap[i, j] if still else suppression_iou(box, boxes[j])
    size, first = moved(order, count, i, scores, score, other)
    kept = 0
    while kept < len(standing) and precedes(standing[kept], i, scores, score):
        left[kept] = standing[kept]
        kept += 1
    for position in range(first, size):
        j, stays = other[position], True
        for k in range(kept):
            survivor = left[k]
            if (near[survivor] if j == i else near[j] if survivor == i else overlap[j, survivor]) > nms_iou:
                stays = False
                break
        if stays:
            left[kept] = j
            kept += 1
    if same(standing, len(standing), left, kept) and not among(i, standing, len(standing)):
        return NOTHING_CHANGES
    return kept


@inlined
def stands_still(box: Any, other: Any) -> bool:
    """Whether two boxes are the same."""
    still: bool = box[0] == other[0] and box[1] == other[1] and box[2] == other[2] and box[3] == other[3]
    return still
