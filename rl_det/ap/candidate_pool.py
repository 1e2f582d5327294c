"""A pool of images' candidates -> its mAP through NMS, and exactly how that changes when one image's scores change.

The pool resolves every image's candidates under their scores (who survives NMS, who matches whom) and hands the outcome to a
`RankingPool`. A change of scores is resolved for the classes it touches, and asked of the pool; so is, for each candidate,
the same change without that candidate's part in it.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numba import prange

from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.matching import Matches
from rl_det.ap.preference import ALL_BITS
from rl_det.ap.ranked_lists import Group, ListEdits, class_change, edit, group_of, list_of, room_for_edits
from rl_det.ap.ranking_pool import RankingPool
from rl_det.ap.relations import Relations
from rl_det.ap.suppression import suppress


class Pooled(NamedTuple):
    """A pool's candidates as the compiled functions take them: each image's by class, and their `Relations`.

    Those of image b and class c are `members[b]` from ends[b, c] up to ends[b, c + 1].
    """

    members: np.ndarray  # [P, N]
    ends: np.ndarray  # [P, C + 1]
    overlap: np.ndarray  # [P, N, N]
    partners: np.ndarray  # [P, N, L]
    passes: np.ndarray  # [P, N, L]
    crowd: np.ndarray  # [P, G]
    nms_iou: float


class Related(NamedTuple):
    """One image's `Relations`."""

    overlap: np.ndarray  # [N, N]
    partners: np.ndarray  # [N, L]
    passes: np.ndarray  # [N, L]
    crowd: np.ndarray  # [G]


class Room(NamedTuple):
    """Scratch memory for what one class's survivors match, and for the edits that this makes; `taken` is left empty."""

    taken: np.ndarray  # [G]
    scores: np.ndarray  # [N]
    hits: np.ndarray  # [N]
    ignored: np.ndarray  # [N]
    edits: ListEdits


class CandidatePool:
    """The candidates of P images under their present scores; logits or probabilities, only the order counts.

    A class without a true box in the pool takes no part, as in COCO. A score of -inf takes a candidate out. Ties go to the
    lower index. There is no limit to the number of detections.
    """

    def __init__(self, relations: Relations, scores: Float64[np.ndarray, "P N"], *, nms_iou: float) -> None:
        self.relations, self.nms_iou = relations, nms_iou
        r, num_classes = relations, relations.positives.shape[1]
        members, ends = _members(r.labels, r.mask, num_classes)
        self.pooled = Pooled(members, ends, r.overlap, r.partners, r.passes, r.crowd, nms_iou)
        self.replace(scores)

    def replace(self, scores: Float64[np.ndarray, "P N"]) -> None:
        """Commit new scores for the whole pool."""
        self.scores = scores
        starts, ranked, survivors, hits, ignored = _resolve_all(scores, self.pooled)
        positives = np.pad(self.relations.positives, ((0, 0), (1, 0))).astype(np.int32)
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
        others = scores if alternatives is None else alternatives
        change, credit = _what_if(images, scores, others, self.pooled, self.ranking.standing, self.ranking.ranked)
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


@compiled
def members_of(image: int, c: int, pooled: Any) -> Any:
    """The candidates of one image and class."""
    return pooled.members[image, pooled.ends[image, c] : pooled.ends[image, c + 1]]


@compiled
def related_of(image: int, pooled: Any) -> Any:
    """One image's `Related`."""
    return Related(pooled.overlap[image], pooled.partners[image], pooled.passes[image], pooled.crowd[image])


@compiled
def room_for(num_candidates: int, num_truths: int, num_listed: int) -> Any:
    """Empty `Room` for an image, of which as many as `num_listed` detections stand in the lists."""
    return Room(
        np.zeros(num_truths, dtype=np.uint32), np.zeros(num_candidates), np.zeros(num_candidates, dtype=np.uint32),
        np.zeros(num_candidates, dtype=np.uint32), room_for_edits(num_candidates + num_listed),
    )  # fmt: skip


@compiled_in_parallel
def _resolve_all(scores: Any, pooled: Any) -> Any:
    """Every image's survivors, laid out as `Matches` has them."""
    num_images, num_candidates = scores.shape
    num_classes = pooled.ends.shape[1] - 1
    starts = np.zeros((num_images, num_classes + 2), dtype=np.int32)
    ranked = np.zeros((num_images, num_candidates))
    survivors = np.zeros((num_images, num_candidates), dtype=np.int32)
    hits = np.zeros((num_images, num_candidates), dtype=np.uint32)
    ignored = np.zeros((num_images, num_candidates), dtype=np.uint32)
    for b in prange(num_images):
        order, alive = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
        taken, related = np.zeros(pooled.crowd.shape[1], dtype=np.uint32), related_of(b, pooled)
        start = 0
        for c in range(num_classes):
            count = sort_group(scores[b], members_of(b, c, pooled), order)
            kept = suppress(order, 0, count, related.overlap, None, pooled.nms_iou, alive, 0)
            survivors[b, start : start + kept] = alive[:kept]
            match_survivors(
                alive[:kept], scores[b], related.partners, related.passes, related.crowd, taken, ranked[b, start:],
                hits[b, start:], ignored[b, start:],
            )  # fmt: skip
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
    survivors: Any,
    scores: Any,
    partners: Any,
    passes: Any,
    crowd: Any,
    taken: Any,
    listed: Any,
    hits: Any,
    ignored: Any,
) -> None:
    """List each survivor of one class: its score, and what it matches, as bits of thresholds.

    `taken` is scratch memory, left empty.
    """
    for k in range(len(survivors)):
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
        listed[k], hits[k], ignored[k] = scores[i], hit, skip
    for k in range(len(survivors)):
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
def _what_if(images: Any, scores: Any, alternatives: Any, pooled: Any, standing: Any, ranked: Any) -> Any:
    """`CandidatePool.what_if` for R edits, each on its own, in parallel."""
    changes, credits = np.zeros(len(scores)), np.zeros(scores.shape)
    scale = share_of_class(ranked)
    for r in prange(len(scores)):
        changes[r] = image_change(images[r], scores[r], alternatives[r], pooled, standing, ranked, scale, credits[r])
    return changes, credits


@compiled
def share_of_class(ranked: Any) -> float:
    """What a class's AP, summed over the thresholds, counts in the mAP."""
    share: float = 1.0 / (max(1, (ranked.positives > 0).sum()) * len(ranked.found))
    return share


@compiled
def image_change(
    image: int, scores: Any, alternatives: Any, pooled: Any, standing: Any, ranked: Any, scale: float, credit: Any
) -> float:
    """The change of the mAP if one image had these scores; `credit` receives each candidate's part in it."""
    num_candidates = len(scores)
    own = scores.copy()
    overlap, partners, passes, crowd = related_of(image, pooled)
    order, other = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
    survivors, others = np.zeros(num_candidates, dtype=np.int64), np.zeros(num_candidates, dtype=np.int64)
    room = room_for(num_candidates, len(crowd), standing.keys.shape[1])
    total = 0.0
    for c in range(len(ranked.positives)):
        members = members_of(image, c, pooled)
        if len(members) == 0 or ranked.positives[c] == 0:
            continue
        old, own_list = group_of(image, c, standing), list_of(c, ranked)
        count = sort_group(own, members, order)
        kept = suppress(order, 0, count, overlap, None, pooled.nms_iou, survivors, 0)
        change = list_change(image, survivors[:kept], own, partners, passes, crowd, old, own_list, room)
        total += change * scale
        for i in members:
            if alternatives[i] == scores[i]:
                continue
            size, first = moved(order, count, i, own, alternatives[i], other)
            other_kept = 0
            while other_kept < kept and precedes(survivors[other_kept], i, own, alternatives[i]):
                others[other_kept] = survivors[other_kept]
                other_kept += 1
            other_kept = suppress(other, first, size, overlap, None, pooled.nms_iou, others, other_kept)
            if same(survivors, kept, others, other_kept) and not among(i, survivors, kept):
                continue  # suppressed before and after: most candidates
            own[i] = alternatives[i]
            credit[i] = (
                change - list_change(image, others[:other_kept], own, partners, passes, crowd, old, own_list, room)
            ) * scale
            own[i] = scores[i]
    return total


@compiled
def precedes(j: int, i: int, scores: Any, score: float) -> bool:
    """Whether candidate j stands above candidate i both at i's present score and at another."""
    if j == i:
        return False
    higher = max(scores[i], score)
    return scores[j] > higher or (scores[j] == higher and j < i)


@compiled
def list_change(
    image: int, survivors: Any, scores: Any, partners: Any, passes: Any, crowd: Any, old: Any, own_list: Any, room: Any
) -> float:
    """The change of a class's AP, summed over the thresholds, if these are the image's survivors of the class."""
    taken, listed_scores, hits, ignored, edits = room
    match_survivors(survivors, scores, partners, passes, crowd, taken, listed_scores, hits, ignored)
    kept = len(survivors)
    new = Group(listed_scores[:kept], hits[:kept], ignored[:kept])
    listed, images, found, found_before, counted_before, weights, ranks, envelopes, gains = own_list
    count = edit(image, old, new, listed, images, edits)
    change: float = class_change(count, edits, found, found_before, counted_before, weights, ranks, envelopes, gains)
    return change


@compiled
def among(candidate: int, survivors: Any, count: int) -> bool:
    """Whether the candidate is among the survivors."""
    return candidate in survivors[:count]


@compiled
def same(survivors: Any, count: int, others: Any, other_count: int) -> bool:
    """Whether the same candidates survive in the same order."""
    return np.array_equal(survivors[:count], others[:other_count])
