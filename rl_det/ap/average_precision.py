"""Matches of B images -> average precision: per image, per image and class, and of all images as one data set.

COCO averages the interpolated precision over 101 recall points. The same number, without the points:

    AP = sum over true positives k, by falling score, of weight[k] * (max precision from k on)

where weight[k] is the share of recall points that the k-th true positive is the first to reach
(`rl_det.ap.options.RecallWeights`). So one walk up from the lowest score suffices, and only true positives need a step.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from rl_det.ap.compiled import compilable, compiled, lowest_bit
from rl_det.ap.matching import Matches
from rl_det.ap.options import COCO, CocoOptions
from rl_det.ap.threads import share_out

EPSILON = 2.0**-52  # pycocotools adds it to the denominator of each precision


class Walk(NamedTuple):
    """What a walk up a ranked list keeps at each threshold: the counts so far, the best precision, the area under it."""

    found: np.ndarray  # [T]
    skipped: np.ndarray  # [T]
    envelope: np.ndarray  # [T]
    areas: np.ndarray  # [T]


def image_ap(matches: Matches, options: CocoOptions = COCO) -> Float64[np.ndarray, "A B"]:
    """COCO's AP of each image by itself, in [0, 1]: the mean over the classes that it holds; NaN where it holds none."""
    return _image_aps(matches, options)[0]


def image_class_ap(matches: Matches, options: CocoOptions = COCO) -> Float64[np.ndarray, "A B C"]:
    """The same for each class; NaN where an image does not hold it."""
    return _image_aps(matches, options)[1]


def _image_aps(matches: Matches, options: CocoOptions) -> tuple[np.ndarray, np.ndarray]:
    table = options.recall_weights.up_to(int(matches.positives.max(initial=0)))
    num_ranges, num_images, num_labels = matches.positives.shape
    aps, class_aps = (
        np.full((num_ranges, num_images), np.nan),
        np.full((num_ranges, num_images, num_labels - 1), np.nan),
    )
    share_out(
        _walk_images, num_images, lambda: room_for_walk(len(options.iou_thresholds)), matches.starts, matches.hits,
        matches.ignored, matches.positives, table, aps, class_aps,
    )  # fmt: skip
    return aps, class_aps


@compiled
def _walk_images(
    first: int, end: int, walk: Any, starts: Any, hits: Any, ignored: Any, positives: Any, table: Any, aps: Any,
    class_aps: Any,
) -> None:  # fmt: skip
    (num_ranges, _, num_labels), num_thresholds = positives.shape, len(walk.areas)
    for b in range(first, end):
        for a in range(num_ranges):
            total, present = 0.0, 0
            for label in range(1, num_labels):
                count = positives[a, b, label]
                if count:
                    area = ranked_ap(
                        hits[a, b], ignored[a, b], starts[b, label], starts[b, label + 1], table[count], walk
                    )
                    class_aps[a, b, label - 1] = area / num_thresholds
                    total += area
                    present += 1
            if present:
                aps[a, b] = total / present / num_thresholds


def room_for_walk(num_thresholds: int) -> Walk:
    """An empty `Walk`."""
    return Walk(
        np.zeros(num_thresholds, dtype=np.int64), np.zeros(num_thresholds, dtype=np.int64), np.zeros(num_thresholds),
        np.zeros(num_thresholds),
    )  # fmt: skip


@compilable
def ranked_ap(hits: Any, ignored: Any, start: int, end: int, weights: Any, walk: Any) -> float:
    """The AP of a ranked list, summed over the thresholds; `walk.areas` has it for each."""
    found, skipped, envelope, areas = walk
    num_thresholds = len(envelope)
    for t in range(num_thresholds):
        found[t], skipped[t], envelope[t], areas[t] = 0, 0, 0.0, 0.0
    for place in range(start, end):
        hit, skip = hits[place], ignored[place]
        if hit:
            for t in range(num_thresholds):
                found[t] += (hit >> t) & 1
        if skip:
            for t in range(num_thresholds):
                skipped[t] += (skip >> t) & 1
    for place in range(end - 1, start - 1, -1):
        bits, skip = hits[place], ignored[place]
        if skip:
            for t in range(num_thresholds):
                skipped[t] -= (skip >> t) & 1
        while bits:
            t = lowest_bit(bits)
            bits &= bits - np.uint32(1)
            precision = found[t] / (place - start + 1 - skipped[t] + EPSILON)
            envelope[t] = max(envelope[t], precision)
            areas[t] += weights[found[t]] * envelope[t]
            found[t] -= 1
    area = 0.0
    for t in range(num_thresholds):
        area += areas[t]
    return area
