"""What became of each detection: by hand, and against a slow obvious count."""

from typing import Any

import numpy as np
import pytest
from metrics.error_scenes import NUM_CLASSES, error_scenes

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.metrics.changes import KINDS, SEEN, Changes, changes

Box = list[float]
TRUE, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
NONE = dict.fromkeys(KINDS, 0)


def found(rows: list[tuple[Box, int, float]]) -> DetectionBatch:
    boxes, labels, scores = ([row[k] for row in rows] for k in range(3))
    return DetectionBatch(
        boxes=np.array([boxes], dtype=np.float64).reshape(1, -1, 4), labels=np.array([labels], dtype=np.int64),
        scores=np.array([scores], dtype=np.float64), mask=np.ones((1, len(rows)), dtype=bool),
    )  # fmt: skip


def true(boxes: list[Box], *, crowd: bool = False) -> TruthBatch:
    ones = np.ones((1, len(boxes)), dtype=np.int64)
    return TruthBatch(boxes=np.array([boxes], dtype=np.float64).reshape(1, -1, 4), labels=ones, area=100.0 * ones,
                      iscrowd=np.full(ones.shape, crowd), mask=ones.astype(bool))  # fmt: skip


def changed(before: list[tuple[Box, int, float]], after: list[tuple[Box, int, float]], boxes: list[Box]) -> Changes:
    return changes(found(before), found(after), true(boxes), num_classes=2)


def test_a_right_detection_that_passes_a_wrong_one_is_raised_and_the_wrong_one_lowered() -> None:
    own = changed([(TRUE, 1, 0.5), (FAR, 1, 0.9)], [(TRUE, 1, 0.8), (FAR, 1, 0.7)], [TRUE])
    assert own.right == {**NONE, "raised": 1}
    assert own.wrong == {**NONE, "lowered": 1}


def test_a_score_that_changes_without_its_rank_is_kept() -> None:
    own = changed([(TRUE, 1, 0.9), (FAR, 1, 0.5)], [(TRUE, 1, 0.6), (FAR, 1, 0.55)], [TRUE])
    assert own.right["kept"] == own.wrong["kept"] == 1


def test_nothing_is_raised_because_others_are_gone_and_classes_rank_apart() -> None:
    own = changed([(FAR, 1, 0.9), (FAR, 2, 0.8), (TRUE, 1, 0.5)], [(FAR, 2, 0.1), (TRUE, 1, 0.5)], [TRUE])
    assert own.right == {**NONE, "kept": 1}
    assert own.wrong == {**NONE, "gone": 1, "kept": 1}


def test_what_changes_its_class_is_gone_and_new_and_right_by_where_it_stands() -> None:
    own = changed([(TRUE, 2, 0.9)], [(TRUE, 1, 0.9)], [TRUE])
    assert own.right == {**NONE, "new": 1}
    assert own.wrong == {**NONE, "gone": 1}
    assert not len(own.overlap)


def test_a_box_that_moves_is_measured_by_its_former_place_and_its_true_box() -> None:
    own = changed([([0.0, 0.0, 10.0, 8.0], 1, 0.9), (FAR, 1, 0.5)], [(TRUE, 1, 0.9), (FAR, 1, 0.5)], [TRUE])
    assert own.overlap.tolist() == pytest.approx([1.0, 0.8]) or own.overlap.tolist() == pytest.approx([0.8, 1.0])
    assert own.nearer[~np.isnan(own.nearer)].tolist() == pytest.approx([0.2])


def test_what_no_one_sees_is_left_out_unless_it_is_seen_before_or_after() -> None:
    low = SEEN / 2
    assert changed([(TRUE, 1, low), (FAR, 1, low)], [(TRUE, 1, low)], [TRUE]).right == NONE
    assert changed([(TRUE, 1, low)], [(TRUE, 1, 0.9)], [TRUE]).right == {**NONE, "kept": 1}


def test_images_without_detections_or_true_boxes_change_nothing() -> None:
    for rows in ([], [(TRUE, 1, 0.9)]):
        own = changed(rows, rows, [])
        assert own.right == NONE
        assert own.wrong == {**NONE, "kept": len(rows)}
    crowded = changes(found([(TRUE, 1, 0.9)]), found([]), true([TRUE], crowd=True), num_classes=2)
    assert crowded.wrong == {**NONE, "gone": 1}


def overlap_of(one: Any, other: Any) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(one[2:] - one[:2])) + float(np.prod(other[2:] - other[:2])) - shared)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_those_that_a_slow_search_finds(seed: int) -> None:
    (before, truths), (after, _) = error_scenes(seed, num_images=5), error_scenes(seed, num_images=5)
    rng = np.random.default_rng(seed)
    after = DetectionBatch(
        boxes=after.boxes + rng.normal(0, 2, (5, 30, 1)), labels=after.labels, scores=rng.random((5, 30)), mask=after.mask,
    )  # fmt: skip
    overlaps, single = [], 0
    for b in range(5):
        free = [list(np.flatnonzero(own.mask[b])) for own in (before, after)]
        while True:
            pairs = [
                (overlap_of(before.boxes[b, i], after.boxes[b, j]), i, j)
                for i in free[0]
                for j in free[1]
                if before.labels[b, i] == after.labels[b, j]
            ]
            best = max(pairs, default=(0.0, 0, 0))
            if best[0] < 0.5:
                break
            free[0].remove(best[1])
            free[1].remove(best[2])
            if max(before.scores[b, best[1]], after.scores[b, best[2]]) >= SEEN:
                overlaps.append(best[0])
        single += sum(
            int(own.scores[b, i] >= SEEN) for own, left in zip((before, after), free, strict=True) for i in left
        )
    own = changes(before, after, truths, num_classes=NUM_CLASSES)
    assert sorted(own.overlap.tolist()) == pytest.approx(sorted(overlaps))
    assert sum(own.right.values()) + sum(own.wrong.values()) == len(overlaps) + single
