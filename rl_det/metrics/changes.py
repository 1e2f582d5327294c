"""What became of each detection from one detector to another: raised, lowered, gone or new, and how far its box moved."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.relations import pairwise_iou
from rl_det.metrics.outcomes import verdicts

SAME_BOX = 0.5
"""Detections of one class whose boxes have this IoU, the nearest first, are the same detection before and after."""
SEEN = 0.05
"""Detections with a lower score, before and after, are left out: there are many, and they decide little."""
KINDS = ("raised", "kept", "lowered", "gone", "new")


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How many right and wrong detections met each change of `KINDS`, and how the boxes of the M pairs moved.

    A pair is raised if it ranks higher than before among the pairs of its class, over the whole data set. So nothing is raised
    only because others are gone. Right means matched with a true box at IoU 0.5: before, or after for what is new; all others
    are wrong here, even in a crowd. `overlap` is the IoU of the two boxes of each pair. `nearer` is the change of a right one's
    IoU with the true box of its class that was nearest before; NaN for wrong ones.
    """

    right: dict[str, int]
    wrong: dict[str, int]
    overlap: Float64[np.ndarray, " M"]
    nearer: Float64[np.ndarray, " M"]


def changes(before: DetectionBatch, after: DetectionBatch, truths: TruthBatch, *, num_classes: int) -> Changes:
    """Pair the detections of two detectors on the same images; ValueError on bad input, which it names."""
    right = [verdicts(found, truths, num_classes=num_classes).correct for found in (before, after)]
    rows: list[tuple[int, float, float, bool, float, float]] = []
    lost = {kind: [0, 0] for kind in ("gone", "new")}
    for image in range(len(before)):
        one, other = (np.flatnonzero(found.mask[image]) for found in (before, after))
        overlap = pairwise_iou(before.boxes[image, one][None], after.boxes[image, other][None])[0]
        same = before.labels[image, one][:, None] == after.labels[image, other]
        pairs = _pairs(np.where(same & (overlap >= SAME_BOX), overlap, 0.0))
        single = [np.setdiff1d(np.arange(len(places)), pairs[:, k]) for k, places in enumerate((one, other))]
        for kind, found, own, correct in zip(
            ("gone", "new"), (before, after), (one[single[0]], other[single[1]]), right, strict=True
        ):
            seen = own[found.scores[image, own] >= SEEN]
            for is_right in (False, True):
                lost[kind][is_right] += int((correct[image, seen] == is_right).sum())
        nearness = overlap[pairs[:, 0], pairs[:, 1]]
        rows += _moved(image, one[pairs[:, 0]], other[pairs[:, 1]], nearness, before, after, truths, right[0][image])
    return _counted(rows, lost)


def _pairs(overlap: Float64[np.ndarray, "N M"]) -> Int64[np.ndarray, "P 2"]:
    """Pairs of detections, the nearest first, each detection in one pair; none where the overlap is 0."""
    places = np.argwhere(overlap > 0)
    free = [np.ones(count, dtype=bool) for count in overlap.shape]
    chosen = []
    for one, other in places[np.argsort(-overlap[overlap > 0], kind="stable")].tolist():
        if free[0][one] and free[1][other]:
            free[0][one] = free[1][other] = False
            chosen.append((one, other))
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def _moved(
    image: int,
    one: Int64[np.ndarray, " P"],
    other: Int64[np.ndarray, " P"],
    overlap: Float64[np.ndarray, " P"],
    before: DetectionBatch,
    after: DetectionBatch,
    truths: TruthBatch,
    right: Bool[np.ndarray, " N"],
) -> list[tuple[int, float, float, bool, float, float]]:
    """Each pair's label, two scores, whether it was right, its overlap, and how much nearer it came to its true box."""
    scores = before.scores[image, one], after.scores[image, other]
    seen = np.maximum(*scores) >= SEEN
    boxes, moved = before.boxes[image, one[seen]], after.boxes[image, other[seen]]
    labels = before.labels[image, one[seen]]
    nearer = np.full(len(boxes), np.nan)
    own = truths.mask[image] & ~truths.iscrowd[image]
    if own.any() and len(boxes):
        same = labels[:, None] == truths.labels[image, own]
        true = truths.boxes[image, own][None]
        then, now = (pairwise_iou(part[None], true)[0] * same for part in (boxes, moved))
        rows, nearest = np.arange(len(boxes)), then.argmax(1)
        nearer = np.where(right[one[seen]], now[rows, nearest] - then[rows, nearest], np.nan)
    columns = (labels, *(part[seen] for part in scores), right[one[seen]], overlap[seen], nearer)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _counted(rows: list[tuple[int, float, float, bool, float, float]], lost: dict[str, list[int]]) -> Changes:
    """Rank the pairs of each class before and after, and count."""
    labels, then, now, right, overlap, nearer = (np.array([row[k] for row in rows], dtype=float) for k in range(6))
    rise = np.zeros(len(rows))
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        rise[own] = _places(then[own]) - _places(now[own])
    signs = {"raised": rise > 0, "kept": rise == 0, "lowered": rise < 0}
    counted = [
        {
            **{kind: int((chosen & (right == is_right)).sum()) for kind, chosen in signs.items()},
            **{kind: numbers[is_right] for kind, numbers in lost.items()},
        }
        for is_right in (False, True)
    ]
    return Changes(right=counted[True], wrong=counted[False], overlap=overlap, nearer=nearer)


def _places(scores: Float64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
    """Each one's place by falling score, from 0; of equal scores, the earlier first."""
    places = np.empty(len(scores), dtype=np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return places
