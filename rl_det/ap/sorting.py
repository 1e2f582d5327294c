"""Indices and their scores -> both by falling score, equals as they stood: a merge sort without memory of its own."""

from typing import Any, NamedTuple

import numpy as np

from rl_det.ap.compiled import compilable

RUN = 12  # so few are sorted by insertion


class SortRoom(NamedTuple):
    """Room to sort up to M indices by their scores."""

    scores: np.ndarray  # [M]
    order: np.ndarray  # [M]
    spare_scores: np.ndarray  # [M]
    spare_order: np.ndarray  # [M]


def room_for_sort(size: int) -> SortRoom:
    """Empty `SortRoom`."""
    scores, order = np.zeros((2, size)), np.zeros((2, size), dtype=np.int64)
    return SortRoom(scores[0], order[0], scores[1], order[1])


@compilable
def sort_falling(room: Any, count: int) -> None:
    """Sort the first `count` of the room's scores, the highest first, stably, and its order along with them."""
    scores, order, spare_scores, spare_order = room
    for first in range(0, count, RUN):
        for k in range(first + 1, min(first + RUN, count)):
            score, i, slot = scores[k], order[k], k
            while slot > first and scores[slot - 1] < score:
                scores[slot], order[slot] = scores[slot - 1], order[slot - 1]
                slot -= 1
            scores[slot], order[slot] = score, i
    width = RUN
    while width < count:
        for first in range(0, count - width, 2 * width):
            middle = first + width
            if scores[middle - 1] >= scores[middle]:
                continue
            for k in range(first, middle):
                spare_scores[k], spare_order[k] = scores[k], order[k]
            merge(room, np.uint64(first), np.uint64(middle), np.uint64(min(middle + width, count)))
        width *= 2


@compilable
def merge(room: Any, first: Any, middle: Any, end: Any) -> None:
    """Merge the spare ones from `first` up to `middle` with the others up to `end`.

    Without a branch on scores, which no processor can foresee; unsigned indices, as these are not looked at for being negative.
    """
    scores, order, spare_scores, spare_order = room
    one, left, right, slot = np.uint64(1), first, middle, first
    while left < middle and right < end:
        earlier, later = spare_scores[left], scores[right]
        overtakes = later > earlier
        scores[slot] = later if overtakes else earlier
        order[slot] = order[right] if overtakes else spare_order[left]
        right += np.uint64(overtakes)
        left += np.uint64(not overtakes)
        slot += one
    while left < middle:
        scores[slot], order[slot] = spare_scores[left], spare_order[left]
        left += one
        slot += one
