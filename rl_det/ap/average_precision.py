"""Matches of B images -> average precision: per image, per image and class, and of all images as one data set.

COCO averages the interpolated precision over 101 recall points. The same number, without the points:

    AP = sum over true positives k, by falling score, of weight[k] * (max precision from k on)

where weight[k] is the share of recall points that the k-th true positive is the first to reach
(`rl_det.ap.options.RecallWeights`). So one walk up from the lowest score suffices, and only true positives need a step.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numba import prange

from rl_det.ap.compiled import compiled, compiled_in_parallel, lowest_bit
from rl_det.ap.matching import Matches
from rl_det.ap.options import COCO, CocoOptions

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
    aps: tuple[np.ndarray, np.ndarray] = _walk_images(
        matches.starts, matches.hits, matches.ignored, matches.positives, table, len(options.iou_thresholds)
    )
    return aps


@compiled_in_parallel
def _walk_images(starts: Any, hits: Any, ignored: Any, positives: Any, table: Any, num_thresholds: int) -> Any:
    num_ranges, num_images, num_labels = positives.shape
    aps = np.full((num_ranges, num_images), np.nan)
    class_aps = np.full((num_ranges, num_images, num_labels - 1), np.nan)
    for b in prange(num_images):
        walk = room_for_walk(num_thresholds)
        for a in range(num_ranges):
            total, present = 0.0, 0
            for label in range(1, num_labels):
                count = positives[a, b, label]
                if count:
                    start, end = starts[b, label], starts[b, label + 1]
                    area = ranked_ap(hits[a, b], ignored[a, b], start, end, table[count], walk)
                    class_aps[a, b, label - 1] = area / num_thresholds
                    total += area
                    present += 1
            if present:
                aps[a, b] = total / present / num_thresholds
    return aps, class_aps


@compiled
def room_for_walk(num_thresholds: int) -> Any:
    """An empty `Walk`."""
    return Walk(
        np.zeros(num_thresholds, dtype=np.int64), np.zeros(num_thresholds, dtype=np.int64), np.zeros(num_thresholds),
        np.zeros(num_thresholds),
    )  # fmt: skip


@compiled
def ranked_ap(hits: Any, ignored: Any, start: int, end: int, weights: Any, walk: Any) -> float:
    """The AP of a ranked list, summed over the thresholds; `walk.areas` has it for each."""
    found, skipped, envelope, areas = walk
    num_thresholds = len(envelope)
    for t in range(num_thresholds):
        found[t], skipped[t], envelope[t], areas[t] = 0, 0, 0.0, 0.0
    for place in range(start, end):
        if hits[place]:
            for t in range(num_thresholds):
                found[t] += (hits[place] >> t) & 1
        if ignored[place]:
            for t in range(num_thresholds):
                skipped[t] += (ignored[place] >> t) & 1
    for place in range(end - 1, start - 1, -1):
        if ignored[place]:
            for t in range(num_thresholds):
                skipped[t] -= (ignored[place] >> t) & 1
        bits = hits[place]
        while bits:
            t = lowest_bit(bits)
            bits &= bits - np.uint32(1)
            precision = found[t] / (place - start + 1 - skipped[t] + EPSILON)
            envelope[t] = max(envelope[t], precision)
            areas[t] += weights[found[t]] * envelope[t]
            found[t] -= 1
    area: float = areas.sum()
    return area
