"""Matches of a data set's images -> its mAP, and exactly how that changes when images' detections change.

A detector's mAP ranks the detections of all images together. The pool keeps them ranked, class by class, and for each IoU
threshold the true positives with their ranks. If one image's detections of a class are replaced, that is a few removals
and insertions in one ranked list. Walking up from its low end, true positive k, which had the precision k / n, now has
(k + a) / (n + d): a and d are how many more true positives and counted detections stand above it than before, and change
only at an edit. For small a and d, zero among them, the envelope (the best precision from a true positive on) is tabulated,
and how much larger than now the area under it is. As soon as the walk's envelope is the table's, the rest of the way up to
the next edit is a difference of two entries; precision falls along a list, so that takes a few steps.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int
from numba import prange

from rl_det.ap.average_precision import EPSILON
from rl_det.ap.compiled import compiled, compiled_in_parallel
from rl_det.ap.matching import Matches
from rl_det.ap.options import COCO, CocoOptions

MORE, LONGER = 1, 2  # how many more true positives and detections above a stretch of a list the tables foresee
NUM_TABLES = (2 * MORE + 1) * (2 * LONGER + 1)
BASE = NUM_TABLES // 2  # the table of the list as it is


class Ranked(NamedTuple):
    """The pool's ranked lists, class behind class, as the compiled functions take them.

    Of class c, `starts[c]` is where its entries begin, of which there are `counts[c]` (and room for more): their scores and
    images, and how many true positives and counted detections stand before each at each threshold, that behind the last
    included. `truths[c]` is where its true positives begin, and one entry is reserved in front and behind: `weights` of
    recall, `ranks` (how many counted detections stand up to each), and the tables, `envelopes` and `gains` in area.
    """

    starts: np.ndarray  # [C + 1]
    counts: np.ndarray  # [C]
    scores: np.ndarray  # [E]
    images: np.ndarray  # [E]
    found_before: np.ndarray  # [E, T]
    counted_before: np.ndarray  # [E, T]
    truths: np.ndarray  # [C + 1]
    weights: np.ndarray  # [1, W]
    ranks: np.ndarray  # [T, W]
    envelopes: np.ndarray  # [tables * T, W]
    gains: np.ndarray  # [tables * T, W]
    found: np.ndarray  # [T, C]
    areas: np.ndarray  # [T, C]


class RankingPool:
    """The matched detections of P images, ranked; images are known by their position in `matches`.

    Matches must be of one area range. Ties rank by image, then by place, as in pycocotools. A class without a true box in
    the pool takes no part.
    """

    def __init__(self, matches: Matches, options: CocoOptions = COCO) -> None:
        _check_one_range(matches)
        self.options = options
        self._starts, self._scores = matches.starts.copy(), matches.scores.copy()
        self._hits, self._ignored = matches.hits[0].copy(), matches.ignored[0].copy()
        self._image_positives = matches.positives[0].copy()
        self.positives: Int[np.ndarray, " C"] = self._image_positives.sum(0, dtype=np.int64)[1:]
        self._positions = np.zeros(self._scores.shape, dtype=np.int32)
        self._ranked = self._allocate()
        self._rank(np.ones(len(self.positives), dtype=np.bool_))

    @property
    def mean_ap(self) -> float:
        """COCO's AP of the pool, in [0, 1]; NaN for a pool without a true box."""
        present = self.positives > 0
        return float(self.class_ap[present].mean()) if present.any() else float("nan")

    def what_if(self, images: Int[np.ndarray, " R"], matches: Matches) -> Float64[np.ndarray, " R"]:
        """The change of `mean_ap` if image images[r] alone had the detections in row r of `matches`; each edit by itself."""
        self._check_edits(images, matches)
        changes: Float64[np.ndarray, " R"] = _what_if(
            images, matches.starts, matches.scores, matches.hits[0], matches.ignored[0], self._starts, self._hits,
            self._ignored, self._positions, self._ranked, self.positives,
        )  # fmt: skip
        return changes

    def replace(self, images: Int[np.ndarray, " R"], matches: Matches) -> None:
        """Commit: from now on image images[r] has the detections in row r of `matches`; of equal images, the last counts."""
        self._check_edits(images, matches)
        width = matches.order.shape[1] - self._scores.shape[1]
        if width > 0:
            self._scores, self._hits, self._ignored, self._positions = (
                np.pad(rows, ((0, 0), (0, width)))
                for rows in (self._scores, self._hits, self._ignored, self._positions)
            )
        touched = np.zeros(len(self.positives), dtype=np.bool_)
        for row, image in enumerate(images.tolist()):
            touched |= (np.diff(self._starts[image]) > 0)[1:] | (np.diff(matches.starts[row]) > 0)[1:]
            size = matches.order.shape[1]
            self._starts[image] = matches.starts[row]
            self._scores[image, :size], self._hits[image, :size] = matches.scores[row], matches.hits[0, row]
            self._ignored[image, :size] = matches.ignored[0, row]
        if (self._sizes() >= np.diff(self._ranked.starts)).any():  # one place is for the end of the list
            self._ranked = self._allocate()
            touched[:] = True
        self._rank(touched)

    def _sizes(self) -> Int[np.ndarray, " C"]:
        """How many detections each class has."""
        sizes: Int[np.ndarray, " C"] = np.diff(self._starts, axis=1)[:, 1:].sum(0, dtype=np.int64)
        return sizes

    def _allocate(self) -> Ranked:
        """Room for all ranked lists, and for some more detections in each."""
        num_thresholds, sizes, positives = len(self.options.iou_thresholds), self._sizes(), self.positives.tolist()
        starts = np.cumsum([0, *(sizes + sizes // 8 + 8)])
        truths = np.cumsum([0, *(count + 2 for count in positives)])
        entries, width = (starts[-1], num_thresholds), truths[-1]
        return Ranked(
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
        _rank(self._starts, self._scores, self._hits, self._ignored, self._positions, touched, self._ranked)
        self.class_ap: Float64[np.ndarray, " C"] = self._ranked.areas.mean(0)

    def ranked(self) -> tuple[np.ndarray, Ranked]:
        """Where in its class's list each image's detections stand [P, N], and the lists: what `class_change` needs."""
        return self._positions, self._ranked

    def _check_edits(self, images: Int[np.ndarray, " R"], matches: Matches) -> None:
        """Raise ValueError where the edits are not of this pool's images."""
        _check_one_range(matches)
        if len(images) != len(matches):
            raise ValueError(
                f"images must name one image for each row of matches; got {len(images)} and {len(matches)}"
            )
        wrong = np.flatnonzero((images < 0) | (images >= len(self._starts)))
        if len(wrong):
            raise ValueError(
                f"images must be in 0..{len(self._starts) - 1}; got {images[wrong[0]]} at index {wrong[0]}"
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


@compiled_in_parallel
def _rank(starts: Any, scores: Any, hits: Any, ignored: Any, positions: Any, touched: Any, ranked: Any) -> None:
    """Rank the touched classes' detections, and tabulate what the walks need."""
    for c in prange(len(touched)):
        if touched[c]:
            list_class(
                c, starts, scores, hits, ignored, positions, ranked
            )  # numba drops writes to a tuple's arrays here
            tabulate_class(c, ranked)


@compiled
def list_class(c: int, starts: Any, scores: Any, hits: Any, ignored: Any, positions: Any, ranked: Any) -> None:
    """Rank a class's detections, and count what stands before each."""
    num_images, num_thresholds = len(starts), len(ranked.found)
    size = 0
    for b in range(num_images):
        size += starts[b, c + 2] - starts[b, c + 1]
    key, image, place = np.empty(size), np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
    count = 0
    for b in range(num_images):
        for p in range(starts[b, c + 1], starts[b, c + 2]):
            key[count], image[count], place[count] = -scores[b, p], b, p
            count += 1
    order = np.argsort(key, kind="mergesort")
    base, truths = ranked.starts[c], ranked.truths[c]
    num_found, num_counted = np.zeros(num_thresholds, dtype=np.int32), np.zeros(num_thresholds, dtype=np.int32)
    for position in range(size):
        e = order[position]
        b, p = image[e], place[e]
        positions[b, p] = position
        ranked.scores[base + position], ranked.images[base + position] = -key[e], b
        for t in range(num_thresholds):
            ranked.found_before[base + position, t] = num_found[t]
            ranked.counted_before[base + position, t] = num_counted[t]
            num_counted[t] += 1 - ((ignored[b, p] >> t) & 1)
            if (hits[b, p] >> t) & 1:
                num_found[t] += 1
                ranked.ranks[t, truths + num_found[t]] = num_counted[t] + EPSILON
    ranked.found_before[base + size], ranked.counted_before[base + size] = num_found, num_counted
    ranked.counts[c], ranked.found[:, c] = size, num_found


@compiled
def tabulate_class(c: int, ranked: Any) -> None:
    """Tabulate the envelope, and the area gained, under each shift."""
    _, _, found, _, _, weights, ranks, envelopes, gains = lists_of(c, ranked)
    areas = np.zeros(weights.shape[1])
    for t in range(len(found)):
        base = BASE * len(found) + t
        areas[:] = 0.0
        tabulate(found[t], ranks[t], weights[0], 0, 0, areas, envelopes[base], gains[base])
        areas[:] = gains[base]
        ranked.areas[t, c] = areas[1]
        for more in range(-MORE, MORE + 1):
            for longer in range(-LONGER, LONGER + 1):
                row = shift_table(more, longer) * len(found) + t
                tabulate(found[t], ranks[t], weights[0], more, longer, areas, envelopes[row], gains[row])


@compiled_in_parallel
def _what_if(
    images: Any, starts: Any, scores: Any, hits: Any, ignored: Any, pool_starts: Any, pool_hits: Any, pool_ignored: Any,
    positions: Any, ranked: Any, positives: Any,
) -> Any:  # fmt: skip
    """`RankingPool.what_if`, the classes shared out among the cores."""
    num_edits, num_classes, num_thresholds = len(images), len(positives), len(ranked.found)
    room = scores.shape[1] + positions.shape[1]
    changes = np.zeros((num_classes, num_edits))
    for c in prange(num_classes):  # a class's lists stay in the cache while all edits are made to them
        if positives[c] == 0:
            continue
        at, signs = np.zeros(room, dtype=np.int64), np.zeros(room, dtype=np.int64)
        hit, skip = np.zeros(room, dtype=np.uint32), np.zeros(room, dtype=np.uint32)
        listed_scores, listed_images, found, found_before, counted_before, weights, ranks, envelopes, gains = lists_of(
            c, ranked
        )
        for r in range(num_edits):
            b = images[r]
            old = slice(pool_starts[b, c + 1], pool_starts[b, c + 2])
            new = slice(starts[r, c + 1], starts[r, c + 2])
            if old.start == old.stop and new.start == new.stop:
                continue
            count = edits(
                b, positions[b, old], pool_hits[b, old], pool_ignored[b, old], scores[r, new], hits[r, new],
                ignored[r, new], listed_scores, listed_images, at, signs, hit, skip,
            )  # fmt: skip
            changes[c, r] = class_change(
                count,
                at,
                signs,
                hit,
                skip,
                found,
                found_before,
                counted_before,
                weights,
                ranks,
                envelopes,
                gains,
            )
    return changes.sum(0) / max(1, (positives > 0).sum()) / num_thresholds


@compiled
def lists_of(c: int, ranked: Any) -> Any:
    """A class's own part of the ranked lists; apart, as numba counts references for each field that is read from a tuple."""
    entries = slice(ranked.starts[c], ranked.starts[c] + ranked.counts[c])
    ended = slice(entries.start, entries.stop + 1)
    truths = slice(ranked.truths[c], ranked.truths[c + 1])
    return (
        ranked.scores[entries], ranked.images[entries], ranked.found[:, c], ranked.found_before[ended],
        ranked.counted_before[ended], ranked.weights[:, truths], ranked.ranks[:, truths], ranked.envelopes[:, truths],
        ranked.gains[:, truths],
    )  # fmt: skip


@compiled
def edits(
    image: int, old_positions: Any, old_hits: Any, old_ignored: Any, new_scores: Any, new_hits: Any,
    new_ignored: Any, scores: Any, images: Any, at: Any, signs: Any, hit: Any, skip: Any,
) -> int:  # fmt: skip
    """An image's old and new detections of a class -> removals (sign -1) and insertions (+1), from the low end; how many.

    A removal is at the place of what goes, an insertion just above the place of what it comes to stand above. The first and
    the last that are as they were are left in peace.
    """
    old, new, first, count = len(old_positions), len(new_scores), 0, 0
    while old and new and (
        new_scores[new - 1] == scores[old_positions[old - 1]]
        and new_hits[new - 1] == old_hits[old - 1] and new_ignored[new - 1] == old_ignored[old - 1]
    ):  # fmt: skip
        old, new = old - 1, new - 1
    while first < min(old, new) and (
        new_scores[first] == scores[old_positions[first]]
        and new_hits[first] == old_hits[first] and new_ignored[first] == old_ignored[first]
    ):  # fmt: skip
        first += 1
    place = old_positions[old] if old < len(old_positions) else len(scores)
    for e in range(new - 1, first - 1, -1):
        place = insertion(scores, images, place, new_scores[e], image)
        while old > first and old_positions[old - 1] >= place:
            old -= 1
            at[count], signs[count], hit[count], skip[count] = old_positions[old], -1, old_hits[old], old_ignored[old]
            count += 1
        at[count], signs[count], hit[count], skip[count] = place, 1, new_hits[e], new_ignored[e]
        count += 1
    for e in range(old - 1, first - 1, -1):
        at[count], signs[count], hit[count], skip[count] = old_positions[e], -1, old_hits[e], old_ignored[e]
        count += 1
    return count


@compiled
def insertion(scores: Any, images: Any, size: int, score: float, image: int) -> int:
    """How many of a ranked list's first `size` detections stand above a new one of this image; without a branch."""
    low = 0
    while size > 0:
        half = size // 2
        above = (scores[low + half] > score) | ((scores[low + half] == score) & (images[low + half] <= image))
        low += (half + 1) * above
        size = size - half - 1 if above else half
    return low


@compiled
def class_change(
    count: int, at: Any, signs: Any, hit: Any, skip: Any, found: Any, found_before: Any, counted_before: Any,
    weights: Any, ranks: Any, envelopes: Any, gains: Any,
) -> float:  # fmt: skip
    """The change of a class's AP, summed over the thresholds, under `count` edits of its ranked list, from the low end."""
    change = 0.0
    if count == 0:
        return change
    for t in range(len(found)):
        more, longer, any_hit = 0, 0, False
        for e in range(count):
            is_hit = (hit[e] >> t) & 1
            any_hit |= is_hit
            more += signs[e] * is_hit
            longer += signs[e] * (1 - ((skip[e] >> t) & 1))
        above, envelope = found[t], 0.0
        lowest, highest = found_before[at[0], t], found_before[at[count - 1], t]
        if not any_hit and lowest == highest and (longer == 0 or lowest == above):
            continue  # false positives that pass by no true positive
        base = BASE * len(found) + t
        for e in range(count + 1):
            here, until = 0, 0
            if e < count:
                here = look(found_before, at[e], t)
                until = here + ((hit[e] >> t) & 1 if signs[e] < 0 else 0)
            tabled = abs(more) <= MORE and abs(longer) <= LONGER
            row = shift_table(more, longer) * len(found) + t if tabled else base
            k = above
            if e == 0 and tabled and above > until:  # nothing is below: the envelope is the table's from the start
                change += look(gains, row, until + 1)
                envelope, k = look(envelopes, row, until + 1), until
            while k > until:
                precision = (k + more) / (look(ranks, t, k) + longer)
                envelope = precision if precision > envelope else envelope
                if tabled and envelope == look(envelopes, row, k):
                    if row != base:
                        change += look(gains, row, until + 1) - look(gains, row, k + 1)
                    envelope = look(envelopes, row, until + 1)
                    break
                change += look(weights, 0, k + more) * envelope - look(weights, 0, k) * look(envelopes, base, k)
                k -= 1
            if e == count:
                break
            is_hit, is_counted = (hit[e] >> t) & 1, 1 - ((skip[e] >> t) & 1)
            if is_hit and signs[e] > 0:
                envelope = max(envelope, (here + more) / (look(counted_before, at[e], t) + longer + EPSILON))
                change += look(weights, 0, here + more) * envelope
            elif is_hit:
                change -= look(weights, 0, until) * look(envelopes, base, until)
            more -= signs[e] * is_hit
            longer -= signs[e] * is_counted
            above = here
    return change


@compiled
def look(rows: Any, row: int, column: int) -> Any:
    """An entry; as unsigned indices are not looked at for being negative, this is faster than brackets."""
    return rows[np.uint64(row), np.uint64(column)]


@compiled
def shift_table(more: int, longer: int) -> int:
    """Which table holds the envelopes under this shift."""
    return (more + MORE) * (2 * LONGER + 1) + longer + LONGER


@compiled
def tabulate(
    count: int, ranks: Any, weights: Any, more: int, longer: int, areas: Any, envelopes: Any, gains: Any
) -> None:
    """Envelope, and area less `areas`, from each of `count` true positives on, with so many more of either above them all."""
    envelope, area = 0.0, 0.0
    envelopes[count + 1], gains[count + 1] = 0.0, 0.0
    for k in range(count, 0, -1):
        if k + more > 0 and ranks[k] + longer >= 1 and k + more < len(weights):  # else no edit can bring this about
            envelope = max(envelope, (k + more) / (ranks[k] + longer))
            area += weights[k + more] * envelope
        envelopes[k], gains[k] = envelope, area - areas[k]
