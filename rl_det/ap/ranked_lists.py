"""Classes' ranked lists of all images' detections -> how a class's AP changes when some are removed and others inserted.

Walking up from the list's low end, true positive k, which had the precision k / n, now has (k + a) / (n + d): a and d are
how many more true positives and counted detections stand above it than before, and change only at an edit. For small a and
d, zero among them, the envelope (the best precision from a true positive on) is tabulated, and how much larger than now the
area under it is. As soon as the walk's envelope is the table's, the rest of the way up to the next edit is a difference of two
entries; precision falls along a list, so that takes a few steps.
"""

from typing import Any, NamedTuple

import numpy as np

from rl_det.ap.average_precision import EPSILON
from rl_det.ap.compiled import compilable, inlined

MORE, LONGER = 1, 2  # how many more true positives and detections above a stretch of a list the tables foresee
NUM_TABLES = (2 * MORE + 1) * (2 * LONGER + 1)
BASE = NUM_TABLES // 2  # the table of the list as it is


class Ranked(NamedTuple):
    """The pool's ranked lists, class behind class, as the compiled functions take them.

    Of class c, `starts[c]` is where its entries begin, of which there are `counts[c]` (and room for more): their scores and
    images, and how many true positives and counted detections stand before each at each threshold, that behind the last
    included. `truths[c]` is where its true positives begin, and one entry is reserved in front and behind: `weights` of
    recall, `ranks` (how many counted detections stand up to each), and the tables, `envelopes` and `gains` in area.
    `positives` counts all true boxes, and `found` those that are found at each threshold.
    """

    positives: np.ndarray  # [C]
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


class ClassList(NamedTuple):
    """One class's part of `Ranked`: M entries, W true positives with one entry reserved in front and behind."""

    scores: np.ndarray  # [M]
    images: np.ndarray  # [M]
    found: np.ndarray  # [T]
    found_before: np.ndarray  # [M + 1, T]
    counted_before: np.ndarray  # [M + 1, T]
    weights: np.ndarray  # [1, W]
    ranks: np.ndarray  # [T, W]
    envelopes: np.ndarray  # [tables * T, W]
    gains: np.ndarray  # [tables * T, W]


class Groups(NamedTuple):
    """Images' detections as `Matches` has them; `keys` are scores, or where in its class's list each detection stands."""

    starts: np.ndarray  # [P, C + 2]
    keys: np.ndarray  # [P, N]
    hits: np.ndarray  # [P, N]
    ignored: np.ndarray  # [P, N]


class Group(NamedTuple):
    """One image's detections of one class, by falling score."""

    keys: np.ndarray  # [K]
    hits: np.ndarray  # [K]
    ignored: np.ndarray  # [K]


class ListEdits(NamedTuple):
    """Room for the edits of one list, from its low end: a removal (sign -1) or an insertion (+1) of a detection at a place."""

    places: np.ndarray  # [E]
    signs: np.ndarray  # [E]
    hits: np.ndarray  # [E]
    ignored: np.ndarray  # [E]


def room_for_edits(size: int) -> ListEdits:
    """Empty `ListEdits`."""
    return ListEdits(
        np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.uint32),
        np.zeros(size, dtype=np.uint32),
    )  # fmt: skip


@inlined
def list_of(c: int, ranked: Any) -> Any:
    """A class's own part of the ranked lists."""
    entries = slice(ranked.starts[c], ranked.starts[c] + ranked.counts[c])
    ended = slice(entries.start, entries.stop + 1)
    truths = slice(ranked.truths[c], ranked.truths[c + 1])
    return ClassList(
        ranked.scores[entries], ranked.images[entries], ranked.found[:, c], ranked.found_before[ended],
        ranked.counted_before[ended], ranked.weights[:, truths], ranked.ranks[:, truths], ranked.envelopes[:, truths],
        ranked.gains[:, truths],
    )  # fmt: skip


@compilable
def size_of(row: int, c: int, groups: Any) -> int:
    """How many detections of one class a row has."""
    size: int = groups.starts[row, c + 2] - groups.starts[row, c + 1]
    return size


@inlined
def group_of(row: int, c: int, groups: Any) -> Any:
    """One row's detections of one class."""
    own = slice(groups.starts[row, c + 1], groups.starts[row, c + 2])
    return Group(groups.keys[row, own], groups.hits[row, own], groups.ignored[row, own])


@compilable
def edit(image: int, old_group: Any, new_group: Any, scores: Any, images: Any, room: Any) -> int:
    """An image's old and new detections of a class -> removals and insertions in a ranked list, in `room`; how many.

    A removal is at the place of what goes, an insertion just above the place of what it comes to stand above. The first and
    the last that are as they were are left in peace.
    """
    positions, old_hits, old_ignored = old_group
    new_scores, new_hits, new_ignored = new_group
    at, signs, hit, skip = room
    old, new, first, count = len(positions), len(new_scores), 0, 0
    while old and new and (
        new_scores[new - 1] == scores[positions[old - 1]]
        and new_hits[new - 1] == old_hits[old - 1] and new_ignored[new - 1] == old_ignored[old - 1]
    ):  # fmt: skip
        old, new = old - 1, new - 1
    while first < min(old, new) and (
        new_scores[first] == scores[positions[first]]
        and new_hits[first] == old_hits[first] and new_ignored[first] == old_ignored[first]
    ):  # fmt: skip
        first += 1
    place = positions[old] if old < len(positions) else len(scores)
    for e in range(new - 1, first - 1, -1):
        place = insertion(scores, images, place, new_scores[e], image)
        while old > first and positions[old - 1] >= place:
            old -= 1
            at[count], signs[count], hit[count], skip[count] = positions[old], -1, old_hits[old], old_ignored[old]
            count += 1
        at[count], signs[count], hit[count], skip[count] = place, 1, new_hits[e], new_ignored[e]
        count += 1
    for e in range(old - 1, first - 1, -1):
        at[count], signs[count], hit[count], skip[count] = positions[e], -1, old_hits[e], old_ignored[e]
        count += 1
    return count


@compilable
def insertion(scores: Any, images: Any, size: int, score: float, image: int) -> int:
    """How many of a ranked list's first `size` detections stand above a new one of this image; without a branch."""
    low = 0
    while size > 0:
        half = size // 2
        above = (scores[low + half] > score) | ((scores[low + half] == score) & (images[low + half] <= image))
        low += (half + 1) * above
        size = size - half - 1 if above else half
    return low


@compilable
def class_change(
    count: int, edits: Any, found: Any, found_before: Any, counted_before: Any, weights: Any, ranks: Any,
    envelopes: Any, gains: Any,
) -> float:  # fmt: skip
    """The change of a class's AP, summed over the thresholds, under `count` edits of its ranked list, from the low end.

    The list's parts come one by one: numba counts references for each field that is read from a tuple, and a walk is short.
    """
    change = 0.0
    if count == 0:
        return change
    at, signs, hit, skip = edits
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


@compilable
def look(rows: Any, row: int, column: int) -> Any:
    """An entry; as unsigned indices are not looked at for being negative, this is faster than brackets."""
    return rows[np.uint64(row), np.uint64(column)]


@compilable
def shift_table(more: int, longer: int) -> int:
    """Which table holds the envelopes under this shift."""
    return (more + MORE) * (2 * LONGER + 1) + longer + LONGER


@inlined
def tabulate_class(c: int, ranked: Any, areas: Any) -> None:
    """Tabulate the envelope, and the area gained, under each shift; `areas` is scratch memory."""
    _, _, found, _, _, weights, ranks, envelopes, gains = list_of(c, ranked)
    for t in range(len(found)):
        base = BASE * len(found) + t
        for k in range(weights.shape[1]):
            areas[k] = 0.0
        tabulate(found[t], ranks[t], weights[0], 0, 0, areas, envelopes[base], gains[base])
        for k in range(weights.shape[1]):
            areas[k] = gains[base, k]
        ranked.areas[t, c] = areas[1]
        for more in range(-MORE, MORE + 1):
            for longer in range(-LONGER, LONGER + 1):
                row = shift_table(more, longer) * len(found) + t
                tabulate(found[t], ranks[t], weights[0], more, longer, areas, envelopes[row], gains[row])


@compilable
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
