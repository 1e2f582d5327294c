"""A pool of images' candidates -> its mAP through NMS, and exactly how that changes when one image's scores change.

The pool resolves every image's candidates under their scores (who survives NMS, who matches whom) and hands the outcome to a
`RankingPool`. A change of scores is resolved for the classes it touches, and asked of the pool; so is, for each candidate,
the same change without that candidate's part in it.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rl_det.ap.compiled import compilable, compiled, inlined
from rl_det.ap.matching import Matches
from rl_det.ap.preference import ALL_BITS, group_by_label
from rl_det.ap.ranked_lists import Group, ListEdits, class_change, edit, group_of, list_of, room_for_edits
from rl_det.ap.ranking_pool import RankingPool
from rl_det.ap.relations import COUNTED, CROWD, Relations
from rl_det.ap.sorting import SortRoom, room_for_sort, sort_falling
from rl_det.ap.suppression import suppress
from rl_det.ap.threads import kept, share_out


class Pooled(NamedTuple):
    """A pool's candidates as the compiled functions take them: each image's by class, and their `Relations`.

    Those of image b and label c are `members[b]` from starts[b, c] up to starts[b, c + 1].
    """

    members: np.ndarray  # [P, N]
    starts: np.ndarray  # [P, C + 2]
    overlap: np.ndarray  # [P, N, N]
    partners: np.ndarray  # [P, N, L]
    passes: np.ndarray  # [P, N, L]
    kinds: np.ndarray  # [P, G + 1]
    nms_iou: float


class Related(NamedTuple):
    """One image's `Relations`."""

    overlap: np.ndarray  # [N, N]
    partners: np.ndarray  # [N, L]
    passes: np.ndarray  # [N, L]
    kinds: np.ndarray  # [G + 1]


class Room(NamedTuple):
    """Scratch memory for what one class's survivors match, and for the edits that this makes; `taken` is left empty."""

    taken: np.ndarray  # [G + 1]
    scores: np.ndarray  # [N]
    hits: np.ndarray  # [N]
    ignored: np.ndarray  # [N]
    edits: ListEdits


class Orders(NamedTuple):
    """Scratch memory for one image: its scores; its ranked candidates and the survivors, as they are and in another order."""

    scores: np.ndarray  # [N]
    sort: SortRoom
    other: np.ndarray  # [N]
    survivors: np.ndarray  # [N]
    other_survivors: np.ndarray  # [N]


class CandidatePool:
    """The candidates of P images under their present scores; logits or probabilities, only the order counts.

    A class without a true box in the pool takes no part, as in COCO. A score of -inf takes a candidate out. Ties go to the
    lower index. IoU thresholds and area range are those of the relations' options; there is no limit to the number of
    detections.
    """

    def __init__(self, relations: Relations, scores: Float64[np.ndarray, "P N"], *, nms_iou: float) -> None:
        self.relations, self.nms_iou = relations, nms_iou
        r, num_classes = relations, relations.positives.shape[1]
        members, starts = _members(r.labels, r.mask, num_classes)
        self.pooled = Pooled(members, starts, r.overlap, r.partners, r.passes, r.kinds, nms_iou)
        self.replace(scores)

    def replace(self, scores: Float64[np.ndarray, "P N"]) -> None:
        """Commit new scores for the whole pool."""
        self.scores = scores
        (num_images, num_classes), shape = self.relations.positives.shape, (1, *scores.shape)
        self.matches = m = Matches(
            positives=np.pad(self.relations.positives, ((0, 0), (1, 0))).astype(np.int32)[None],
            order=np.zeros(scores.shape, dtype=np.int32),
            starts=np.zeros((num_images, num_classes + 2), dtype=np.int32),
            scores=np.zeros(scores.shape),
            hits=np.zeros(shape, dtype=np.uint32),
            ignored=np.zeros(shape, dtype=np.uint32),
        )
        room = partial(room_for, scores.shape[1], self.relations.kinds.shape[1], scores.shape[1])
        share_out(_resolve, num_images, room, scores, self.pooled, m.starts, m.scores, m.order, m.hits[0], m.ignored[0])
        self.ranking = RankingPool(m, self.relations.options)

    @property
    def class_ap(self) -> Float64[np.ndarray, " C"]:
        """COCO's AP of each class of the pool; 0 for a class without a true box."""
        return self.ranking.class_ap

    @property
    def mean_ap(self) -> float:
        """COCO's AP of the pool, in [0, 1]; NaN for a pool without a true box."""
        return self.ranking.mean_ap

    def room(self) -> tuple[Orders, Room]:
        """Scratch memory for one image."""
        return room_for(self.scores.shape[1], self.relations.kinds.shape[1], self.ranking.standing.keys.shape[1])

    @property
    def share_of_class(self) -> float:
        """What a class's AP, summed over the thresholds, counts in the mAP."""
        ranked = self.ranking.ranked
        return float(1.0 / (max(1, (ranked.positives > 0).sum()) * len(ranked.found)))

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
        change, credit = np.zeros(len(scores)), np.zeros(scores.shape)
        share_out(
            _what_if, len(scores), self.room, images, scores, others, self.pooled, self.ranking.standing, self.ranking.ranked,
            self.share_of_class, change, credit,
        )  # fmt: skip
        return change, credit


def _members(labels: Int64[np.ndarray, "P N"], mask: Bool[np.ndarray, "P N"], num_classes: int) -> tuple[Any, Any]:
    """Each image's candidates by label, as `Pooled` has them."""
    members = np.zeros(labels.shape, dtype=np.int64)
    starts = np.zeros((len(labels), num_classes + 2), dtype=np.int64)
    share_out(_group, len(labels), tuple, labels, mask, starts, members)
    return members, starts


@compiled
def _group(first: int, end: int, _: Any, labels: Any, mask: Any, starts: Any, members: Any) -> None:
    """`group_by_label` for a slice of the images."""
    for b in range(first, end):
        group_by_label(labels[b], mask[b], starts[b], members[b])


@inlined
def related_of(image: int, pooled: Any) -> Any:
    """One image's `Related`."""
    return Related(pooled.overlap[image], pooled.partners[image], pooled.passes[image], pooled.kinds[image])


@kept
def room_for(num_candidates: int, num_truths: int, num_listed: int) -> tuple[Orders, Room]:
    """Empty room for an image, of which as many as `num_listed` detections stand in the lists."""
    indices = np.zeros((3, num_candidates), dtype=np.int64)
    return Orders(np.zeros(num_candidates), room_for_sort(num_candidates), *indices), Room(
        np.zeros(num_truths, dtype=np.uint32), np.zeros(num_candidates), np.zeros(num_candidates, dtype=np.uint32),
        np.zeros(num_candidates, dtype=np.uint32), room_for_edits(num_candidates + num_listed),
    )  # fmt: skip


@compiled
def _resolve(
    first: int,
    end: int,
    room: Any,
    scores: Any,
    pooled: Any,
    starts: Any,
    ranked: Any,
    survivors: Any,
    hits: Any,
    ignored: Any,
) -> None:
    """The survivors of a slice of the images, laid out as `Matches` has them."""
    (_, sort, _, alive, _), taken, num_classes = room[0], room[1].taken, pooled.starts.shape[1] - 2
    for b in range(first, end):
        related, start = related_of(b, pooled), 0
        for c in range(num_classes):
            members = pooled.members[b, pooled.starts[b, c + 1] : pooled.starts[b, c + 2]]
            count = sort_group(scores[b], members, sort)
            kept = suppress(sort.order, 0, count, related.overlap, None, pooled.nms_iou, alive, 0)
            for k in range(kept):
                survivors[b, start + k] = alive[k]
            match_survivors(
                alive[:kept], scores[b], related.partners, related.passes, related.kinds, taken, ranked[b, start:],
                hits[b, start:], ignored[b, start:],
            )  # fmt: skip
            start += kept
            starts[b, c + 2] = start


@compilable
def sort_group(scores: Any, members: Any, sort: Any) -> int:
    """Write the members that are there to `sort.order` by falling score, ties by the lower index; returns how many they are."""
    count = 0
    for i in members:
        if scores[i] != -np.inf:
            sort.scores[count], sort.order[count] = scores[i], i
            count += 1
    sort_falling(sort, count)
    return count


@compilable
def match_survivors(
    survivors: Any,
    scores: Any,
    partners: Any,
    passes: Any,
    kinds: Any,
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
        hits[k], ignored[k] = match_one(partners[i], passes[i], kinds, taken)
        listed[k] = scores[i]
    for k in range(len(survivors)):
        for p in range(partners.shape[1]):
            if partners[survivors[k], p] < 0:
                break
            taken[partners[survivors[k], p]] = 0


@inlined
def match_one(partners: Any, passes: Any, kinds: Any, taken: Any) -> Any:
    """What one survivor hits, and where it does not count, as bits of thresholds; what it takes is noted in `taken`."""
    hit, skip, needed = np.uint32(0), np.uint32(0), ALL_BITS
    for p in range(len(partners)):
        g = partners[p]
        if g < 0:
            break
        bits = passes[p] & needed
        if kinds[g] != CROWD:
            bits &= ~taken[g]
            taken[g] |= bits
        if kinds[g] == COUNTED:
            hit |= bits
        else:
            skip |= bits
        needed &= ~bits
    return hit, skip


@inlined
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


@compiled
def _what_if(
    first: int, end: int, room: Any, images: Any, scores: Any, alternatives: Any, pooled: Any, standing: Any,
    ranked: Any, scale: float, changes: Any, credits: Any,
) -> None:  # fmt: skip
    """`CandidatePool.what_if` for a slice of the edits, each on its own."""
    for r in range(first, end):
        changes[r] = image_change(
            images[r], scores[r], alternatives[r], pooled, standing, ranked, scale, credits[r], room
        )


@inlined
def image_change(
    image: int, scores: Any, alternatives: Any, pooled: Any, standing: Any, ranked: Any, scale: float, credit: Any,
    rooms: Any,
) -> float:  # fmt: skip
    """The change of the mAP if one image had these scores; `credit` receives each candidate's part in it."""
    (own, sort, other, survivors, others), room = rooms
    order = sort.order
    for i in range(len(scores)):
        own[i] = scores[i]
    overlap, partners, passes, kinds = related_of(image, pooled)
    total = 0.0
    for c in range(len(ranked.positives)):
        members = pooled.members[image, pooled.starts[image, c + 1] : pooled.starts[image, c + 2]]
        if len(members) == 0 or ranked.positives[c] == 0:
            continue
        old, own_list = group_of(image, c, standing), list_of(c, ranked)
        count = sort_group(own, members, sort)
        kept = suppress(order, 0, count, overlap, None, pooled.nms_iou, survivors, 0)
        change = list_change(image, survivors[:kept], own, partners, passes, kinds, old, own_list, room)
        total += change * scale
        for i in members:
            if alternatives[i] == scores[i]:
                continue
            other_kept, out = 0, False
            while other_kept < kept and not out and precedes(survivors[other_kept], i, own, alternatives[i]):
                others[other_kept] = survivors[other_kept]
                out = overlap[i, survivors[other_kept]] > pooled.nms_iou
                other_kept += 1
            if out:
                continue  # a survivor that stands above it either way suppresses it: most candidates
            size, first = moved(order, count, i, own, alternatives[i], other)
            other_kept = suppress(other, first, size, overlap, None, pooled.nms_iou, others, other_kept)
            if same(survivors, kept, others, other_kept) and not among(i, survivors, kept):
                continue  # suppressed before and after
            own[i] = alternatives[i]
            credit[i] = (
                change - list_change(image, others[:other_kept], own, partners, passes, kinds, old, own_list, room)
            ) * scale
            own[i] = scores[i]
    return total


@inlined
def precedes(j: int, i: int, scores: Any, score: float) -> bool:
    """Whether candidate j stands above candidate i both at i's present score and at another."""
    if j == i:
        return False
    higher = max(scores[i], score)
    return scores[j] > higher or (scores[j] == higher and j < i)


@compilable
def list_change(
    image: int, survivors: Any, scores: Any, partners: Any, passes: Any, kinds: Any, old: Any, own_list: Any, room: Any
) -> float:
    """The change of a class's AP, summed over the thresholds, if these are the image's survivors of the class."""
    taken, listed_scores, hits, ignored, edits = room
    match_survivors(survivors, scores, partners, passes, kinds, taken, listed_scores, hits, ignored)
    kept = len(survivors)
    new = Group(listed_scores[:kept], hits[:kept], ignored[:kept])
    listed, images, found, found_before, counted_before, weights, ranks, envelopes, gains = own_list
    count = edit(image, old, new, listed, images, edits)
    change: float = class_change(count, edits, found, found_before, counted_before, weights, ranks, envelopes, gains)
    return change


@inlined
def among(candidate: int, survivors: Any, count: int) -> bool:
    """Whether the candidate is among the survivors."""
    k = 0
    while k < count and survivors[k] != candidate:
        k += 1
    return k < count


@inlined
def same(survivors: Any, count: int, others: Any, other_count: int) -> bool:
    """Whether the same candidates survive in the same order."""
    k = 0
    while k < min(count, other_count) and survivors[k] == others[k]:
        k += 1
    return k == count == other_count
