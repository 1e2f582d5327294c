"""A pool of images' candidates -> its mAP, and exactly how that changes when one image's scores change.

A detector's mAP ranks the detections of all images together. The pool keeps, class by class, what survives NMS in every
image, sorted by score, each with the IoU thresholds at which it is a true positive. A change in one image replaces that
image's few entries of a class; the class's AP is then one walk from the low-score end:

    AP = sum over true positives k of weight[k] * (max precision from k on)

where weight[k] counts the recall points that are first reached at the k-th true positive, by pycocotools' own float
comparison. This is the same number as pycocotools' 101-point interpolation.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numba import prange

from rl_det.metrics.compiled import compiled, compiled_in_parallel
from rl_det.metrics.options import IOU_THRESHOLDS
from rl_det.metrics.relations import Relations, resolve


class RankingPool:
    """The detections of P images under their present scores; logits or probabilities, only the order counts.

    A class without a true box in the pool takes no part, as in COCO. A score of -inf takes a candidate out.
    """

    def __init__(self, relations: Relations, scores: Float64[np.ndarray, "P N"], *, nms_iou: float) -> None:
        self.relations, self.nms_iou = relations, nms_iou
        self.members, self.member_ends = _members(relations.labels, relations.mask, relations.positives.shape[1])
        self.positives: Int64[np.ndarray, " C"] = relations.positives.sum(0)
        self.weights = recall_weights(self.positives)
        self.replace(scores)

    def replace(self, scores: Float64[np.ndarray, "P N"]) -> None:
        """Commit new scores for the whole pool."""
        r = self.relations
        self._entries = _rank(
            scores, self.members, self.member_ends, r.overlap, r.iou, r.crowd, self.nms_iou, IOU_THRESHOLDS
        )
        self._scores = scores
        self.class_ap: Float64[np.ndarray, " C"] = _class_aps(*self._entries, self.positives, self.weights)

    @property
    def mean_ap(self) -> float:
        """COCO's AP of the pool, in [0, 1]; NaN for a pool without a true box."""
        present = self.positives > 0
        return float(self.class_ap[present].mean()) if present.any() else float("nan")

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
        r = self.relations
        ask = alternatives is not None
        change, credit = _what_if(
            images, scores, alternatives if ask else scores, self.members, self.member_ends, r.overlap, r.iou, r.crowd,
            self.nms_iou, IOU_THRESHOLDS, *self._entries, self.positives, self.weights, self.class_ap,
        )  # fmt: skip
        return change, credit


def recall_weights(positives: Int64[np.ndarray, " C"]) -> Float64[np.ndarray, "C K"]:
    """weight[c, k]: how many of COCO's 101 recall points the k-th true positive (from 1) of P reaches first, over 101."""
    recalls = np.linspace(0.0, 1.0, 101)
    weights = np.zeros((len(positives), int(positives.max(initial=0)) + 1))
    for row, count in zip(weights, positives, strict=True):
        if count:
            reached = np.searchsorted(np.arange(1, count + 1) / count, recalls, side="left")
            row[1 : count + 1] = np.bincount(reached, minlength=count)[:count] / len(recalls)
    return weights


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
def _rank(
    scores: Any, members: Any, ends: Any, overlap: Any, iou: Any, crowd: Any, nms_iou: float, thresholds: Any
) -> Any:
    """Every class's surviving detections of all images, best score first (ties: the earlier image)."""
    num_images, num_candidates = scores.shape
    num_classes = ends.shape[1] - 1
    survivors = np.zeros((num_images, num_candidates), dtype=np.int64)
    hits = np.zeros((num_images, num_candidates), dtype=np.uint16)
    ignored = np.zeros((num_images, num_candidates), dtype=np.uint16)
    counts = np.zeros((num_images, num_classes), dtype=np.int64)
    for b in prange(num_images):
        for c in range(num_classes):
            start, end = ends[b, c], ends[b, c + 1]
            counts[b, c] = resolve(
                scores[b], members[b, start:end], overlap[b], iou[b], crowd[b], nms_iou, thresholds,
                survivors[b, start:end], hits[b, start:end], ignored[b, start:end],
            )  # fmt: skip
    offsets = np.zeros(num_classes + 1, dtype=np.int64)
    offsets[1:] = np.cumsum(counts.sum(0))
    total = offsets[-1]
    entry_score, entry_image = np.zeros(total), np.zeros(total, dtype=np.int64)
    entry_hits, entry_ignored = np.zeros(total, dtype=np.uint16), np.zeros(total, dtype=np.uint16)
    for c in prange(num_classes):
        size = offsets[c + 1] - offsets[c]
        score, image = np.zeros(size), np.zeros(size, dtype=np.int64)
        hit, ignore = np.zeros(size, dtype=np.uint16), np.zeros(size, dtype=np.uint16)
        filled = 0
        for b in range(num_images):
            for position in range(counts[b, c]):
                slot = ends[b, c] + position
                score[filled], image[filled] = scores[b, survivors[b, slot]], b
                hit[filled], ignore[filled] = hits[b, slot], ignored[b, slot]
                filled += 1
        order = np.argsort(-score, kind="mergesort")
        span = slice(offsets[c], offsets[c + 1])
        entry_score[span], entry_image[span] = score[order], image[order]
        entry_hits[span], entry_ignored[span] = hit[order], ignore[order]
    return entry_score, entry_image, entry_hits, entry_ignored, offsets


@compiled
def _walk(
    score: Any,
    image: Any,
    hits: Any,
    ignored: Any,
    edited: int,
    new_scores: Any,
    new: Any,
    new_hits: Any,
    new_ignored: Any,
    count: int,
    weights: Any,
) -> float:
    """One class's AP, averaged over the thresholds, with image `edited`'s entries replaced by `count` new ones.

    Walks both sorted lists from the low-score end; `edited` = -1 replaces nothing.
    """
    num_thresholds = 10
    found, counted = np.zeros(num_thresholds, dtype=np.int64), np.zeros(num_thresholds, dtype=np.int64)
    total = count
    for position in range(len(score)):
        if image[position] == edited:
            continue
        total += 1
        bits, skip = hits[position], ignored[position]
        if bits or skip:
            for t in range(num_thresholds):
                found[t] += (bits >> t) & 1
                counted[t] -= (skip >> t) & 1
    for position in range(count):
        bits, skip = new_hits[position], new_ignored[position]
        if bits or skip:
            for t in range(num_thresholds):
                found[t] += (bits >> t) & 1
                counted[t] -= (skip >> t) & 1
    envelope = np.zeros(num_thresholds)
    area = 0.0
    old, fresh = len(score) - 1, count - 1
    while old >= 0 or fresh >= 0:
        if old >= 0 and image[old] == edited:
            old -= 1
            continue
        take_new = old < 0
        if old >= 0 and fresh >= 0:
            mine = new_scores[new[fresh]]
            take_new = mine < score[old] or (mine == score[old] and edited > image[old])
        if take_new:
            bits, skip = new_hits[fresh], new_ignored[fresh]
            fresh -= 1
        else:
            bits, skip = hits[old], ignored[old]
            old -= 1
        if bits or skip:
            for t in range(num_thresholds):
                if (bits >> t) & 1:
                    precision = found[t] / (total + counted[t] + 2.0**-52)
                    envelope[t] = max(envelope[t], precision)
                    area += weights[found[t]] * envelope[t]
                    found[t] -= 1
                elif (skip >> t) & 1:
                    counted[t] += 1
        total -= 1
    return area / num_thresholds


@compiled
def _class_aps(score: Any, image: Any, hits: Any, ignored: Any, offsets: Any, positives: Any, weights: Any) -> Any:
    """The pool's AP of each class as it stands; 0 where the class has no true box."""
    aps = np.zeros(len(positives))
    none, nothing, no_bits = np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint16)
    for c in range(len(positives)):
        if positives[c]:
            span = slice(offsets[c], offsets[c + 1])
            aps[c] = _walk(
                score[span], image[span], hits[span], ignored[span], -1, none, nothing, no_bits, no_bits, 0, weights[c]
            )
    return aps


@compiled
def _ranked(candidate: int, survivors: Any, count: int) -> bool:
    """Whether the candidate is among the survivors."""
    return candidate in survivors[:count]


@compiled
def _equal(survivors: Any, count: int, others: Any, other_count: int) -> bool:
    """Whether the same candidates survive in the same order."""
    return np.array_equal(survivors[:count], others[:other_count])


@compiled_in_parallel
def _what_if(
    images: Any, scores: Any, alternatives: Any, members: Any, ends: Any, overlap: Any, iou: Any, crowd: Any,
    nms_iou: float, thresholds: Any, entry_score: Any, entry_image: Any, entry_hits: Any, entry_ignored: Any,
    offsets: Any, positives: Any, weights: Any, class_ap: Any,
) -> Any:  # fmt: skip
    """`RankingPool.what_if` for R edits, each on its own, in parallel."""
    num_edits, num_candidates = scores.shape
    num_classes = ends.shape[1] - 1
    changes, credits = np.zeros(num_edits), np.zeros((num_edits, num_candidates))
    present = max(1, (positives > 0).sum())
    for r in prange(num_edits):
        b = images[r]
        own = scores[r].copy()
        survivors = np.zeros(num_candidates, dtype=np.int64)
        before = np.zeros(num_candidates, dtype=np.int64)
        hits, ignored = np.zeros(num_candidates, dtype=np.uint16), np.zeros(num_candidates, dtype=np.uint16)
        for c in range(num_classes):
            group = members[b, ends[b, c] : ends[b, c + 1]]
            if len(group) == 0 or positives[c] == 0:
                continue
            span = slice(offsets[c], offsets[c + 1])
            count = resolve(own, group, overlap[b], iou[b], crowd[b], nms_iou, thresholds, survivors, hits, ignored)
            ap = _walk(
                entry_score[span], entry_image[span], entry_hits[span], entry_ignored[span],
                b, own, survivors, hits, ignored, count, weights[c],
            )  # fmt: skip
            changes[r] += (ap - class_ap[c]) / present
            before[:], count_before = survivors, count
            for i in group:
                if alternatives[r, i] == scores[r, i]:
                    continue
                own[i] = alternatives[r, i]
                count = resolve(own, group, overlap[b], iou[b], crowd[b], nms_iou, thresholds, survivors, hits, ignored)
                if not _ranked(i, survivors, count) and _equal(survivors, count, before, count_before):
                    own[i] = scores[r, i]
                    continue  # suppressed before and after: most candidates, and nothing to walk for
                other = _walk(
                    entry_score[span], entry_image[span], entry_hits[span], entry_ignored[span],
                    b, own, survivors, hits, ignored, count, weights[c],
                )  # fmt: skip
                credits[r, i] = (ap - other) / present
                own[i] = scores[r, i]
    return changes, credits
