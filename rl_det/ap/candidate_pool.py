"""A pool of images' candidates -> its mAP through NMS, and exactly how that changes when one image's scores change.

The pool resolves every image's candidates under their scores (who survives NMS, who matches whom) and hands the outcome to a
`RankingPool`. A change of scores is resolved for the classes it touches, and asked of the pool; so is, for each candidate,
the same change without that candidate's part in it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numba import prange

from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.matching import ALL_BITS, Matches
from rl_det.ap.ranking_pool import RankingPool, class_change, edits, lists_of
from rl_det.ap.relations import Relations
from rl_det.ap.suppression import suppress


class CandidatePool:
    """The candidates of P images under their present scores; logits or probabilities, only the order counts.

    A class without a true box in the pool takes no part, as in COCO. A score of -inf takes a candidate out. Ties go to the
    lower index. There is no limit to the number of detections.
    """

    def __init__(self, relations: Relations, scores: Float64[np.ndarray, "P N"], *, nms_iou: float) -> None:
        self.relations, self.nms_iou = relations, nms_iou
        self.members, self.member_ends = _members(relations.labels, relations.mask, relations.positives.shape[1])
        self.replace(scores)

    def replace(self, scores: Float64[np.ndarray, "P N"]) -> None:
        """Commit new scores for the whole pool."""
        r, self.scores = self.relations, scores
        starts, ranked, survivors, hits, ignored = _resolve_all(
            scores, self.members, self.member_ends, r.overlap, r.partners, r.passes, r.crowd, self.nms_iou
        )
        positives = np.pad(r.positives, ((0, 0), (1, 0))).astype(np.int32)
        self.matches = Matches(
            positives=positives[None],
            order=survivors,
            starts=starts,
            scores=ranked,
            hits=hits[None],
            ignored=ignored[None],
        )
        self.ranking = RankingPool(self.matches)

    @property
    def class_ap(self) -> Float64[np.ndarray, " C"]:
        """COCO's AP of each class of the pool; 0 for a class without a true box."""
        return self.ranking.class_ap

    @property
    def mean_ap(self) -> float:
        """COCO's AP of the pool, in [0, 1]; NaN for a pool without a true box."""
        return self.ranking.mean_ap

    def what_if(
        self,
        images: Int64[np.ndarray, " R"],
        scores: Float64[np.ndarray, "R N"],
        alternatives: Float64[np.ndarray, "R N"] | None = None,
    ) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N"]]:
        """The change of `mean_ap` if image images[r] alone had scores[r], and what each candidate's own part in it is.

        The second is mean_ap under scores[r] minus mean_ap under scores[r] with that candidate's score replaced by its
        alternative: exact, through NMS and matching; zeros where no alternatives are asked for.
        """
        r, m = self.relations, self.matches
        change, credit = _what_if(
            images, scores, scores if alternatives is None else alternatives, self.members, self.member_ends,
            r.overlap, r.partners, r.passes, r.crowd, self.nms_iou, m.starts, m.hits[0], m.ignored[0],
            *self.ranking.ranked(), self.ranking.positives,
        )  # fmt: skip
        return change, credit


@compiled
def _members(labels: Any, mask: Any, num_classes: int) -> Any:
    """Each image's candidates grouped by class: indices [B, N] and where each class's group ends [B, C + 1]."""
    num_images, num_candidates = labels.shape
    members = np.zeros((num_images, num_candidates), dtype=np.int64)
    ends = np.zeros((num_images, num_classes + 1), dtype=np.int64)
    for b in range(num_images):
        count = 0
        for c in range(num_classes):
            for i in range(num_candidates):
                if mask[b, i] and labels[b, i] == c + 1:
                    members[b, count] = i
                    count += 1
            ends[b, c + 1] = count
    return members, ends


@compiled_in_parallel
def _resolve_all(
    scores: Any, members: Any, ends: Any, overlap: Any, partners: Any, passes: Any, crowd: Any, nms_iou: float
) -> Any:
    """Every image's survivors, laid out as `Matches` has them."""
    num_images, num_candidates = scores.shape
    num_classes = ends.shape[1] - 1
    starts = np.zeros((num_images, num_classes + 2), dtype=np.int32)
    ranked = np.zeros((num_images, num_candidates))
    survivors = np.zeros((num_images, num_candidates), dtype=np.int32)
    hits = np.zeros((num_images, num_candidates), dtype=np.uint32)
    ignored = np.zeros((num_images, num_candidates), dtype=np.uint32)
    for b in prange(num_images):
        order, alive = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
        taken = np.zeros(crowd.shape[1], dtype=np.uint32)
        start = 0
        for c in range(num_classes):
            count = sort_group(scores[b], members[b, ends[b, c] : ends[b, c + 1]], order)
            kept = suppress(order, 0, count, overlap[b], None, nms_iou, alive, 0)
            match_survivors(alive, kept, partners[b], passes[b], crowd[b], taken, hits[b, start:], ignored[b, start:])
            for k in range(kept):
                survivors[b, start + k], ranked[b, start + k] = alive[k], scores[b, alive[k]]
            start += kept
            starts[b, c + 2] = start
    return starts, ranked, survivors, hits, ignored


@compiled
def sort_group(scores: Any, members: Any, order: Any) -> int:
    """Write the members that are there by falling score to `order`; returns how many they are. Ties: the lower index first."""
    count = 0
    for i in members:
        if scores[i] == -np.inf:
            continue
        slot = count
        while slot > 0 and scores[order[slot - 1]] < scores[i]:
            order[slot] = order[slot - 1]
            slot -= 1
        order[slot] = i
        count += 1
    return count


@compiled
def match_survivors(
    survivors: Any, kept: int, partners: Any, passes: Any, crowd: Any, taken: Any, hits: Any, ignored: Any
) -> None:
    """What each survivor of one class matches, as bits of thresholds; `taken` is scratch memory, left empty."""
    for k in range(kept):
        i = survivors[k]
        hit, skip, needed = np.uint32(0), np.uint32(0), ALL_BITS
        for p in range(partners.shape[1]):
            g = partners[i, p]
            if g < 0:
                break
            bits = passes[i, p] & needed
            if crowd[g]:
                skip |= bits
            else:
                bits &= ~taken[g]
                taken[g] |= bits
                hit |= bits
            needed &= ~bits
        hits[k], ignored[k] = hit, skip
    for k in range(kept):
        for p in range(partners.shape[1]):
            if partners[survivors[k], p] < 0:
                break
            taken[partners[survivors[k], p]] = 0


@compiled
def moved(order: Any, count: int, i: int, scores: Any, score: float, other: Any) -> Any:
    """The order with candidate i at another score, written to `other`: how many, and from which position on it differs."""
    size, old, new = 0, -1, -1
    for position in range(count):
        j = order[position]
        if j == i:
            old = position
            continue
        if new < 0 and score != -np.inf and (scores[j] < score or (scores[j] == score and j > i)):
            new = size
            other[size] = i
            size += 1
        other[size] = j
        size += 1
    if new < 0 and score != -np.inf:
        new = size
        other[size] = i
        size += 1
    first = min(old, new) if old >= 0 and new >= 0 else max(old, new)
    return size, first


@compiled_in_parallel
def _what_if(
    images: Any, scores: Any, alternatives: Any, members: Any, ends: Any, overlap: Any, partners: Any, passes: Any,
    crowd: Any, nms_iou: float, pool_starts: Any, pool_hits: Any, pool_ignored: Any, positions: Any, ranked: Any,
    positives: Any,
) -> Any:  # fmt: skip
    """`CandidatePool.what_if` for R edits, each on its own, in parallel."""
    num_edits, num_candidates = scores.shape
    num_thresholds, num_classes = len(ranked.found), len(positives)
    changes, credits = np.zeros(num_edits), np.zeros((num_edits, num_candidates))
    scale = 1.0 / (max(1, (positives > 0).sum()) * num_thresholds)
    room = num_candidates + positions.shape[1]
    for r in prange(num_edits):
        b = images[r]
        own = scores[r].copy()
        order, other = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
        survivors, others = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
        taken, listed = np.zeros(crowd.shape[1], dtype=np.uint32), np.zeros(num_candidates)
        hits, ignored = np.zeros(num_candidates, dtype=np.uint32), np.zeros(num_candidates, dtype=np.uint32)
        at, signs = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.int64)
        hit, skip = np.zeros(room, dtype=np.uint32), np.zeros(room, dtype=np.uint32)
        for c in range(num_classes):
            group = members[b, ends[b, c] : ends[b, c + 1]]
            if len(group) == 0 or positives[c] == 0:
                continue
            old, lists = slice(pool_starts[b, c + 1], pool_starts[b, c + 2]), lists_of(c, ranked)
            count = sort_group(own, group, order)
            kept = suppress(order, 0, count, overlap[b], None, nms_iou, survivors, 0)
            change = list_change(
                b, survivors, kept, own, listed, partners[b], passes[b], crowd[b], taken, hits, ignored,
                positions[b, old], pool_hits[b, old], pool_ignored[b, old], lists, at, signs, hit, skip,
            )  # fmt: skip
            changes[r] += change * scale
            for i in group:
                if alternatives[r, i] == scores[r, i]:
                    continue
                size, first = moved(order, count, i, own, alternatives[r, i], other)
                kept_before = 0
                while kept_before < kept and precedes(survivors[kept_before], i, own, alternatives[r, i]):
                    others[kept_before] = survivors[kept_before]
                    kept_before += 1
                other_kept = suppress(other, first, size, overlap[b], None, nms_iou, others, kept_before)
                if same(survivors, kept, others, other_kept) and not among(i, survivors, kept):
                    continue  # suppressed before and after: most candidates
                own[i] = alternatives[r, i]
                other_change = list_change(
                    b, others, other_kept, own, listed, partners[b], passes[b], crowd[b], taken, hits, ignored,
                    positions[b, old], pool_hits[b, old], pool_ignored[b, old], lists, at, signs, hit, skip,
                )  # fmt: skip
                credits[r, i] = (change - other_change) * scale
                own[i] = scores[r, i]
    return changes, credits


@compiled
def precedes(j: int, i: int, scores: Any, score: float) -> bool:
    """Whether candidate j stands above candidate i both at i's present score and at another."""
    if j == i:
        return False
    higher = max(scores[i], score)
    return scores[j] > higher or (scores[j] == higher and j < i)


@compiled
def list_change(
    image: int, survivors: Any, kept: int, scores: Any, listed: Any, partners: Any, passes: Any, crowd: Any,
    taken: Any, hits: Any, ignored: Any, old_positions: Any, old_hits: Any, old_ignored: Any, lists: Any, at: Any,
    signs: Any, hit: Any, skip: Any,
) -> float:  # fmt: skip
    """The change of a class's AP, summed over the thresholds, if these are the image's survivors of the class."""
    match_survivors(survivors, kept, partners, passes, crowd, taken, hits, ignored)
    for k in range(kept):
        listed[k] = scores[survivors[k]]
    ranked_scores, images, found, found_before, counted_before, weights, ranks, envelopes, gains = lists
    count = edits(
        image, old_positions, old_hits, old_ignored, listed[:kept], hits[:kept], ignored[:kept], ranked_scores, images,
        at, signs, hit, skip,
    )  # fmt: skip
    change: float = class_change(
        count, at, signs, hit, skip, found, found_before, counted_before, weights, ranks, envelopes, gains
    )
    return change


@compiled
def among(candidate: int, survivors: Any, count: int) -> bool:
    """Whether the candidate is among the survivors."""
    return candidate in survivors[:count]


@compiled
def same(survivors: Any, count: int, others: Any, other_count: int) -> bool:
    """Whether the same candidates survive in the same order."""
    return np.array_equal(survivors[:count], others[:other_count])
