"""A pool of candidates and moved boxes of single images -> what each move alone is worth, and all of them with new scores.

As in `rl_det.ap.candidate_pool`, one class of one image is resolved anew at a time. Here who suppresses whom and who
matches whom changes too, but only in the row and the column of the box that moves.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numba import prange

from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.candidate_pool import CandidatePool, list_change, sort_group
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.matching import gather_truths, group_by_label
from rl_det.ap.options import COCO
from rl_det.ap.ranking_pool import lists_of
from rl_det.ap.relations import list_partners
from rl_det.ap.suppression import suppress, suppression_iou


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
    r, m, num_classes = pool.relations, pool.matches, pool.relations.positives.shape[1]
    edited = DetectionBatch(boxes=moved, labels=r.labels[images], scores=np.zeros(scores.shape), mask=r.mask[images])
    check(edited, truths[images], num_classes)
    change, worth = _moves(
        images, scores, moved, pool.scores, boxes, pool.members, pool.member_ends, r.overlap, r.partners, r.passes,
        truths.boxes, truths.labels, truths.iscrowd, truths.mask, COCO.needed_iou, pool.nms_iou,
        m.starts, m.hits[0], m.ignored[0], *pool.ranking.ranked(), pool.ranking.positives,
    )  # fmt: skip
    return change, worth


@compiled_in_parallel
def _moves(
    images: Any, scores: Any, moved: Any, baseline: Any, boxes: Any, members: Any, ends: Any, overlap: Any,
    partners: Any, passes: Any, true_boxes: Any, true_labels: Any, crowd: Any, true_mask: Any, needed_iou: Any,
    nms_iou: float, pool_starts: Any, pool_hits: Any, pool_ignored: Any, positions: Any, ranked: Any, positives: Any,
) -> Any:  # fmt: skip
    """`what_moves_are_worth` for R edits, each on its own, in parallel."""
    num_edits, num_candidates = scores.shape
    num_classes, num_truths, length = len(positives), max(1, true_labels.shape[1]), partners.shape[2]
    changes, worth = np.zeros(num_edits), np.zeros((num_edits, num_candidates))
    scale = 1.0 / (max(1, (positives > 0).sum()) * len(ranked.found))
    room = num_candidates + positions.shape[1]
    for r in prange(num_edits):
        b = images[r]
        near = overlap[b].copy()
        own_partners = np.full((num_candidates, num_truths), -1, dtype=np.int16)
        own_passes = np.zeros((num_candidates, num_truths), dtype=np.uint32)
        own_partners[:, :length], own_passes[:, :length] = partners[b], passes[b]
        starts, true_order = np.zeros(num_classes + 2, dtype=np.int32), np.zeros(num_truths, dtype=np.int32)
        truths, crowds = np.zeros((5, num_truths)), np.zeros(num_truths, dtype=np.bool_)
        group_by_label(true_labels[b], true_mask[b], starts, true_order)
        gather_truths(true_order, starts[-1], true_boxes[b], crowd[b], truths, crowds)
        close, overlaps = np.zeros(num_truths, dtype=np.int32), np.zeros(num_truths)
        bits, taken = np.zeros(num_truths, dtype=np.uint32), np.zeros(num_truths, dtype=np.uint32)
        order, survivors = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
        listed = np.zeros(num_candidates)
        hits, ignored = np.zeros(num_candidates, dtype=np.uint32), np.zeros(num_candidates, dtype=np.uint32)
        at, signs = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.int64)
        hit, skip = np.zeros(room, dtype=np.uint32), np.zeros(room, dtype=np.uint32)
        for c in range(num_classes):
            group = members[b, ends[b, c] : ends[b, c + 1]]
            if len(group) == 0 or positives[c] == 0:
                continue
            first, last = starts[c + 1], starts[c + 2]
            old, lists = slice(pool_starts[b, c + 1], pool_starts[b, c + 2]), lists_of(c, ranked)
            count = sort_group(baseline[b], group, order)
            for i in group:
                if np.array_equal(moved[r, i], boxes[b, i]):
                    continue
                place(i, moved[r, i], boxes[b], group, near)
                list_partners(
                    moved[r, i], truths, crowds, first, last, needed_iou, close, overlaps, bits, own_partners[i],
                    own_passes[i],
                )  # fmt: skip
                kept = suppress(order, 0, count, near, None, nms_iou, survivors, 0)
                worth[r, i] = scale * list_change(
                    b, survivors, kept, baseline[b], listed, own_partners, own_passes, crowds, taken, hits, ignored,
                    positions[b, old], pool_hits[b, old], pool_ignored[b, old], lists, at, signs, hit, skip,
                )  # fmt: skip
                for j in group:
                    near[i, j] = near[j, i] = overlap[b, i, j]
                own_partners[i, length:] = -1
                own_partners[i, :length], own_passes[i, :length] = partners[b, i], passes[b, i]
            for i in group:
                place(i, moved[r, i], moved[r], group, near)
                list_partners(
                    moved[r, i], truths, crowds, first, last, needed_iou, close, overlaps, bits, own_partners[i],
                    own_passes[i],
                )  # fmt: skip
            count = sort_group(scores[r], group, order)
            kept = suppress(order, 0, count, near, None, nms_iou, survivors, 0)
            changes[r] += scale * list_change(
                b, survivors, kept, scores[r], listed, own_partners, own_passes, crowds, taken, hits, ignored,
                positions[b, old], pool_hits[b, old], pool_ignored[b, old], lists, at, signs, hit, skip,
            )  # fmt: skip
    return changes, worth


@compiled
def place(i: int, box: Any, others: Any, group: Any, near: Any) -> None:
    """Write whom candidate i overlaps, now that it is at `box`, among those of its class."""
    for j in group:
        if j != i:
            near[i, j] = near[j, i] = suppression_iou(box, others[j])
