"""A pool of candidates -> what a user counts in each image, and what the counts are if a single candidate changes.

Most metrics of an image's detections are a formula of a few numbers that add up over classes: its tallies. A candidate that
changes alone changes those of its own class, so only that class is suppressed and matched anew
(`rl_det.ap.variants`), and all else is kept. There are two kinds of tallies:

* displayed: of the detections with a score of at least `displayed_from`, matched at an IoU of 0.5. The columns are those
  from `FOUND` to `DISTANCE`.
* ranked: of all detections, at all of COCO's IoU thresholds. The columns are `AP` and `CLASSES`.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from rl_det.ap.average_precision import Walk, ranked_ap, room_for_walk
from rl_det.ap.batch import DetectionBatch, TruthBatch, check
from rl_det.ap.candidate_pool import CandidatePool, Room, match_one, room_for, sort_group
from rl_det.ap.compiled import compilable, compiled
from rl_det.ap.preference import (
    ClassedTruths,
    Wishes,
    box_of,
    class_truths,
    overlap,
    room_for_truths,
    room_for_wishes,
)
from rl_det.ap.relations import CROWD, list_partners
from rl_det.ap.threads import kept, share_out
from rl_det.ap.variants import (
    NOTHING_CHANGES,
    Asked,
    VariantRoom,
    present,
    room_for_variants,
    stands_still,
    survivors_alone,
)

FOUND, SPURIOUS, MISSED, MISCOUNTED, DISTANCE = range(5)
"""True boxes found and missed; detections that neither found one nor lie in a crowd; the sum over classes of how far the
number of detections outside crowds is from that of true boxes; and the sum of 1 - IoU over found true boxes."""
AP, CLASSES = range(2)
"""The sum of the classes' AP, and how many classes the image holds or has a detection of that no crowd absorbs."""
NOBODY = -1


class Rules(NamedTuple):
    """How to count: what is displayed begins at a score, and what is matched at an IoU; `positives` are the objects to find."""

    needed_iou: np.ndarray  # [T]
    area_range: np.ndarray  # [2]
    displayed_from: float
    positives: np.ndarray  # [P, C]


class TallyRoom(NamedTuple):
    """Scratch memory for one image after another; `partners` and `passes` are those of the candidate that changes."""

    variants: VariantRoom
    lists: Room
    truths: ClassedTruths
    wishes: Wishes
    partners: np.ndarray  # [G + 1]
    passes: np.ndarray  # [G + 1]
    walk: Walk
    tally: np.ndarray  # [K]


@kept
def room_for_tallies(num_candidates: int, num_truths: int, num_classes: int, num_thresholds: int) -> TallyRoom:
    """Empty `TallyRoom`."""
    return TallyRoom(
        room_for_variants(num_candidates),
        room_for(num_candidates, num_truths, 0)[1],
        room_for_truths(num_truths, num_classes),
        room_for_wishes(num_truths),
        np.zeros(num_truths, dtype=np.int16),
        np.zeros(num_truths, dtype=np.uint32),
        room_for_walk(num_thresholds),
        np.zeros(DISTANCE + 1),
    )


class Counter:
    """The tallies of a pool's images by class, as they are, from which those of variants are computed.

    `displayed_from` asks for displayed tallies, None for ranked ones. `boxes` and `truths` are those that the pool's
    relations were made of, by COCO's own options. Its scores must not change meanwhile.
    """

    def __init__(
        self,
        pool: CandidatePool,
        boxes: Float32[np.ndarray, "P N 4"],
        truths: TruthBatch,
        *,
        displayed_from: float | None,
    ) -> None:
        related = pool.relations
        self.pool, self.boxes, self.truths = pool, boxes, truths
        options, (num_images, num_classes) = related.options, related.positives.shape
        self._rules = Rules(
            options.needed_iou,
            np.array(options.area_range),
            -np.inf if displayed_from is None else displayed_from,
            related.positives,
        )
        most = int(related.positives.max(initial=0))
        self._table = options.recall_weights.up_to(most) if displayed_from is None else None
        self._width = CLASSES + 1 if displayed_from is None else DISTANCE + 1
        self._room = partial(
            room_for_tallies, pool.scores.shape[1], related.kinds.shape[1], num_classes, len(options.iou_thresholds)
        )
        self.by_class: Float64[np.ndarray, "P C K"] = np.zeros((num_images, num_classes, self._width))
        self._now = present(pool, boxes)
        share_out(
            _tally, num_images, self._room, self._now, pool.pooled, truths.arrays, self._rules, self._table, self.by_class
        )  # fmt: skip
        self.tallies: Float64[np.ndarray, "P K"] = self.by_class.sum(1)

    def of_variants(self, asked: Asked) -> Float64[np.ndarray, "V K"]:
        """The tallies of each variant's image: exact, through NMS and matching.

        ValueError on boxes that are not finite or turned inside out, naming edit ("image") and candidate ("index").
        """
        related = self.pool.relations
        edited = DetectionBatch(
            boxes=asked.boxes, labels=related.labels[asked.images], scores=np.zeros(asked.scores.shape, dtype=np.float32),
            mask=related.mask[asked.images],
        )  # fmt: skip
        check(edited, self.truths[asked.images], related.positives.shape[1])
        told = np.zeros((asked.num_variants, self._width))
        share_out(
            _tally_variants, len(asked.images), self._room, asked, self._now, self.pool.pooled, self.truths.arrays,
            self._rules, self._table, self.by_class, self.tallies, told,
        )  # fmt: skip
        return told


@compiled
def _tally(
    first: int, end: int, room: Any, now: Any, pooled: Any, truths: Any, rules: Any, table: Any, by_class: Any
) -> None:
    """The tallies of a slice of the images, class by class."""
    for b in range(first, end):
        class_truths(b, truths, room.truths)
        for c in range(by_class.shape[1]):
            standing = now.survivors[b, now.starts[b, c + 1] : now.starts[b, c + 2]]
            tally_class(
                b, c, standing, len(standing), NOBODY, 0.0, now.boxes[b, 0], now, pooled, rules, table, room, by_class[b, c]
            )  # fmt: skip


@compiled
def _tally_variants(
    first: int, end: int, room: Any, asked: Any, now: Any, pooled: Any, truths: Any, rules: Any, table: Any, by_class: Any,
    tallies: Any, told: Any,
) -> None:  # fmt: skip
    """`Counter.of_variants` for a slice of the images."""
    images, all_scores, all_boxes, numbers = asked
    (_, sort, other, _, left), near, _ = room.variants
    partners, passes, tally, (places, overlaps, bits) = room.partners, room.passes, room.tally, room.wishes
    true_starts, _, sides, crowds = room.truths
    length, width = pooled.partners.shape[2], told.shape[1]
    for r in range(first, end):
        b = images[r]
        class_truths(b, truths, room.truths)
        scores, boxes, starts = now.scores[b], now.boxes[b], now.starts[b]
        for c in range(by_class.shape[1]):
            members = pooled.members[b, pooled.starts[b, c + 1] : pooled.starts[b, c + 2]]
            standing = now.survivors[b, starts[c + 1] : starts[c + 2]]
            count = sort_group(scores, members, sort)
            for i in members:
                v = numbers[r, i]
                if v < 0:
                    continue
                for k in range(width):
                    told[v, k] = tallies[b, k]
                box = all_boxes[r, i]
                size = survivors_alone(
                    i, all_scores[r, i], box, scores, boxes, members, sort.order, count, standing, pooled.overlap[b],
                    pooled.nms_iou, near, other, left,
                )  # fmt: skip
                if size == NOTHING_CHANGES:
                    continue
                if stands_still(box, boxes[i]):
                    for k in range(len(partners)):
                        partners[k] = pooled.partners[b, i, k] if k < length else -1
                        passes[k] = pooled.passes[b, i, k] if k < length else 0
                else:
                    list_partners(
                        box_of(all_boxes[r], i), true_starts[c + 1], true_starts[c + 2], sides, crowds, pooled.kinds[b],
                        rules.needed_iou, rules.area_range, places, overlaps, bits, partners, passes,
                    )  # fmt: skip
                tally_class(b, c, left, size, i, all_scores[r, i], box, now, pooled, rules, table, room, tally)
                for k in range(width):
                    told[v, k] += tally[k] - by_class[b, c, k]


@compilable
def tally_class(
    b: int, c: int, survivors: Any, count: int, i: int, score: float, box: Any, now: Any, pooled: Any, rules: Any,
    table: Any, room: Any, tally: Any,
) -> None:  # fmt: skip
    """Write the tallies of one class of image b with these survivors; candidate i has another score and box."""
    start, end, positives = room.truths.starts[c + 1], room.truths.starts[c + 2], rules.positives[b, c]
    taken = room.lists.taken
    if table is None:  # decided when numba compiles, not when it runs
        tally_displayed(
            survivors, count, i, score, box, room.partners, now.scores[b], now.boxes[b], pooled.partners[b],
            pooled.kinds[b], taken, room.truths.sides, rules.displayed_from, positives, tally,
        )  # fmt: skip
    else:
        tally_ranked(
            survivors, count, i, room.partners, room.passes, pooled.partners[b], pooled.passes[b], pooled.kinds[b], taken,
            room.lists.hits, room.lists.ignored, table[positives], room.walk, positives, tally,
        )  # fmt: skip
    for g in range(start, end):
        taken[g] = 0


@compilable
def tally_displayed(
    survivors: Any, count: int, i: int, score: float, box: Any, own_partners: Any, scores: Any, boxes: Any, partners: Any,
    kinds: Any, taken: Any, sides: Any, displayed_from: float, positives: int, tally: Any,
) -> None:  # fmt: skip
    """Match what is displayed at the least of COCO's thresholds, which all partners pass; `taken` is left as it is then."""
    found, counted, distance = 0, 0, 0.0
    for k in range(count):
        j = survivors[k]
        if (score if j == i else scores[j]) < displayed_from:
            break
        mine, matched = own_partners if j == i else partners[j], NOBODY
        for p in range(len(mine)):
            g = mine[p]
            if g < 0:
                break
            if kinds[g] == CROWD or taken[g] == 0:
                matched = g
                break
        if matched == NOBODY:
            counted += 1
        elif kinds[matched] != CROWD:
            taken[matched] = 1
            own = box if j == i else boxes[j]
            x1, y1, x2, y2 = np.float64(own[0]), np.float64(own[1]), np.float64(own[2]), np.float64(own[3])
            found, counted = found + 1, counted + 1
            distance += 1 - overlap((x1, y1, x2, y2), (x2 - x1) * (y2 - y1), sides, matched, False)
    tally[FOUND], tally[SPURIOUS], tally[MISSED] = found, counted - found, positives - found
    tally[MISCOUNTED], tally[DISTANCE] = abs(counted - positives), distance


@compilable
def tally_ranked(
    survivors: Any, count: int, i: int, own_partners: Any, own_passes: Any, partners: Any, passes: Any, kinds: Any,
    taken: Any, hits: Any, ignored: Any, weights: Any, walk: Any, positives: int, tally: Any,
) -> None:  # fmt: skip
    """Match all, and walk up the list; `taken` is left as it is then."""
    predicted = False
    for k in range(count):
        j = survivors[k]
        mine, its = own_partners if j == i else partners[j], own_passes if j == i else passes[j]
        hits[k], ignored[k] = match_one(mine, its, kinds, taken)
        predicted = predicted or ignored[k] & 1 == 0
    tally[AP] = ranked_ap(hits, ignored, 0, count, weights, walk) / len(walk.areas) if positives else 0.0
    tally[CLASSES] = 1.0 if positives or predicted else 0.0
