"""Matches of a data set's images -> its mAP, and exactly how that changes when images' detections change.

A detector's mAP ranks the detections of all images together. The pool keeps them ranked, class by class, and for each IoU
threshold the true positives with their ranks. If one image's detections of a class are replaced, that is a few removals
and insertions in one ranked list (`rl_det.ap.ranked_lists`).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from rl_det.ap.average_precision import EPSILON
from rl_det.ap.compiled import compiled, inlined
from rl_det.ap.matching import Matches
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.ranked_lists import (
    NUM_TABLES,
    Groups,
    Ranked,
    class_change,
    edit,
    group_of,
    list_of,
    room_for_edits,
    size_of,
    tabulate_class,
)
from rl_det.ap.sorting import SortRoom, room_for_sort, sort_falling
from rl_det.ap.threads import share_out


class RankingPool:
    """The matched detections of P images, ranked; images are known by their position in `matches`.

    Matches must be of one area range. Ties rank by image, then by place, as in pycocotools. A class without a true box in
    the pool takes no part.
    """

    def __init__(self, matches: Matches, options: CocoOptions = COCO) -> None:
        _check_one_range(matches)
        self.options = options
        self._scores, self._image_positives = matches.scores.copy(), matches.positives[0].copy()
        self.positives: Int[np.ndarray, " C"] = self._image_positives.sum(0, dtype=np.int64)[1:]
        self.standing = Groups(
            starts=matches.starts.copy(),
            keys=np.zeros(matches.scores.shape, dtype=np.int32),
            hits=matches.hits[0].copy(),
            ignored=matches.ignored[0].copy(),
        )
        self.ranked = self._allocate()
        self._rank(np.ones(len(self.positives), dtype=np.bool_))

    @property
    def mean_ap(self) -> float:
        """COCO's AP of the pool, in [0, 1]; NaN for a pool without a true box."""
        present = self.positives > 0
        return float(self.class_ap[present].mean()) if present.any() else float("nan")

    def what_if(self, images: Int[np.ndarray, " R"], matches: Matches) -> Float64[np.ndarray, " R"]:
        """The change of `mean_ap` if image images[r] alone had the detections in row r of `matches`; each edit by itself."""
        self._check_edits(images, matches)
        edits = Groups(starts=matches.starts, keys=matches.scores, hits=matches.hits[0], ignored=matches.ignored[0])
        changes, size = np.zeros((len(self.positives), len(images))), edits.keys.shape[1] + self.standing.keys.shape[1]
        share_out(
            _what_if,
            len(self.positives),
            lambda: room_for_edits(size),
            images,
            edits,
            self.standing,
            self.ranked,
            changes,
        )
        summed = np.add.accumulate(changes)[-1]  # one class after another, however many edits there are
        total: Float64[np.ndarray, " R"] = (
            summed / max(1, (self.positives > 0).sum()) / len(self.options.iou_thresholds)
        )
        return total

    def replace(self, images: Int[np.ndarray, " R"], matches: Matches) -> None:
        """Commit: from now on image images[r] has the detections in row r of `matches`; of equal images, the last counts."""
        self._check_edits(images, matches)
        width = matches.order.shape[1] - self._scores.shape[1]
        if width > 0:
            starts, *columns = self.standing
            self._scores, *wider = (np.pad(column, ((0, 0), (0, width))) for column in (self._scores, *columns))
            self.standing = Groups(starts, *wider)
        touched = np.zeros(len(self.positives), dtype=np.bool_)
        for row, image in enumerate(images.tolist()):
            touched |= (np.diff(self.standing.starts[image]) > 0)[1:] | (np.diff(matches.starts[row]) > 0)[1:]
            size = matches.order.shape[1]
            self._scores[image, :size] = matches.scores[row]
            self.standing.starts[image], self.standing.hits[image, :size] = matches.starts[row], matches.hits[0, row]
            self.standing.ignored[image, :size] = matches.ignored[0, row]
        if (self._sizes() >= np.diff(self.ranked.starts)).any():  # one place is for the end of the list
            self.ranked = self._allocate()
            touched[:] = True
        self._rank(touched)

    def _sizes(self) -> Int[np.ndarray, " C"]:
        """How many detections each class has."""
        sizes: Int[np.ndarray, " C"] = np.diff(self.standing.starts, axis=1)[:, 1:].sum(0, dtype=np.int64)
        return sizes

    def _allocate(self) -> Ranked:
        """Room for all ranked lists, and for some more detections in each."""
        num_thresholds, sizes, positives = len(self.options.iou_thresholds), self._sizes(), self.positives.tolist()
        starts = np.cumsum([0, *(sizes + sizes // 8 + 8)])
        truths = np.cumsum([0, *(count + 2 for count in positives)])
        entries, width = (starts[-1], num_thresholds), truths[-1]
        return Ranked(
            positives=self.positives,
            starts=starts,
            counts=np.zeros(len(sizes), dtype=np.int64),
            scores=np.zeros(starts[-1]),
            images=np.zeros(starts[-1], dtype=np.int32),
            found_before=np.zeros(entries, dtype=np.int32),
            counted_before=np.zeros(entries, dtype=np.int32),
            truths=truths,
            weights=np.concatenate([np.append(self.options.recall_weights.of(count), 0.0) for count in positives])[
                None
            ],
            ranks=np.zeros((num_thresholds, width)),
            envelopes=np.zeros((NUM_TABLES * num_thresholds, width)),
            gains=np.zeros((NUM_TABLES * num_thresholds, width)),
            found=np.zeros((num_thresholds, len(sizes)), dtype=np.int64),
            areas=np.zeros((num_thresholds, len(sizes))),
        )

    def _rank(self, touched: np.ndarray) -> None:
        """Rank the touched classes anew."""
        sizes = int(self._sizes().max()), len(self.options.iou_thresholds), int(self.positives.max())
        share_out(
            _rank, len(touched), lambda: room_for_ranking(*sizes), touched, self._scores, self.standing, self.ranked
        )
        self.class_ap: Float64[np.ndarray, " C"] = self.ranked.areas.mean(0)

    def _check_edits(self, images: Int[np.ndarray, " R"], matches: Matches) -> None:
        """Raise ValueError where the edits are not of this pool's images."""
        _check_one_range(matches)
        if len(images) != len(matches):
            raise ValueError(
                f"images must name one image for each row of matches; got {len(images)} and {len(matches)}"
            )
        wrong = np.flatnonzero((images < 0) | (images >= len(self._scores)))
        if len(wrong):
            raise ValueError(
                f"images must be in 0..{len(self._scores) - 1}; got {images[wrong[0]]} at index {wrong[0]}"
            )
        same = (matches.positives[0] == self._image_positives[images]).all(1)
        if not same.all():
            row = int((~same).argmax())
            raise ValueError(
                f"matches must be with the pool's own true boxes; those of image {images[row]} (index {row}) count otherwise"
            )


def _check_one_range(matches: Matches) -> None:
    if len(matches.hits) != 1:
        raise ValueError(f"matches must be of one area range; got {len(matches.hits)}")


class RankingRoom(NamedTuple):
    """Room to rank one class's detections, up to M, and to count and tabulate them."""

    sort: SortRoom
    images: np.ndarray  # [M]
    places: np.ndarray  # [M]
    found: np.ndarray  # [T]
    counted: np.ndarray  # [T]
    areas: np.ndarray  # [W]


def room_for_ranking(size: int, num_thresholds: int, num_truths: int) -> RankingRoom:
    """Empty `RankingRoom`."""
    return RankingRoom(
        room_for_sort(size), np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32),
        np.zeros(num_thresholds, dtype=np.int32), np.zeros(num_thresholds, dtype=np.int32), np.zeros(num_truths + 2),
    )  # fmt: skip


@compiled
def _rank(first: int, end: int, room: Any, touched: Any, scores: Any, standing: Any, ranked: Any) -> None:
    """Rank the detections of those of a slice of the classes that are touched, and tabulate what the walks need."""
    for c in range(first, end):
        if touched[c]:
            list_class(c, scores, standing, ranked, room)
            tabulate_class(c, ranked, room.areas)


@inlined
def list_class(c: int, scores: Any, standing: Any, ranked: Any, room: Any) -> None:
    """Rank a class's detections, and count what stands before each."""
    starts, positions, hits, ignored = standing
    sort, image, place, num_found, num_counted, _ = room
    keys, order, _, _ = sort
    num_images, num_thresholds, size = len(starts), len(ranked.found), 0
    for b in range(num_images):
        for p in range(starts[b, c + 1], starts[b, c + 2]):
            keys[size], order[size], image[size], place[size] = scores[b, p], size, b, p
            size += 1
    sort_falling(sort, size)
    base, truths = ranked.starts[c], ranked.truths[c]
    for t in range(num_thresholds):
        num_found[t], num_counted[t] = 0, 0
    for position in range(size):
        e = order[position]
        b, p = image[e], place[e]
        positions[b, p] = position
        ranked.scores[base + position], ranked.images[base + position] = keys[position], b
        for t in range(num_thresholds):
            ranked.found_before[base + position, t] = num_found[t]
            ranked.counted_before[base + position, t] = num_counted[t]
            num_counted[t] += 1 - ((ignored[b, p] >> t) & 1)
            if (hits[b, p] >> t) & 1:
                num_found[t] += 1
                ranked.ranks[t, truths + num_found[t]] = num_counted[t] + EPSILON
    ranked.counts[c] = size
    for t in range(num_thresholds):
        ranked.found_before[base + size, t], ranked.counted_before[base + size, t] = num_found[t], num_counted[t]
        ranked.found[t, c] = num_found[t]


@compiled
def _what_if(
    first: int, end: int, room: Any, images: Any, edits: Any, standing: Any, ranked: Any, changes: Any
) -> None:
    """`RankingPool.what_if` for a slice of the classes."""
    for c in range(first, end):  # a class's lists stay in the cache while all edits are made to them
        if ranked.positives[c] == 0:
            continue
        scores, listed, found, found_before, counted_before, weights, ranks, envelopes, gains = list_of(c, ranked)
        for r in range(len(images)):
            if size_of(images[r], c, standing) or size_of(r, c, edits):
                old, new = group_of(images[r], c, standing), group_of(r, c, edits)
                count = edit(images[r], old, new, scores, listed, room)
                changes[c, r] = class_change(
                    count, room, found, found_before, counted_before, weights, ranks, envelopes, gains
                )
