"""TIDE's breakdown of errors: by hand, against a slow obvious implementation, and against the authors' program."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from metrics.error_scenes import NUM_CLASSES, error_scenes

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.data_set import coco_figures
from rl_det.metrics.errors import ERRORS, OF_DETECTIONS, TOTALS, ErrorBreakdown, error_breakdown

GOLDEN = Path(__file__).parents[1] / "golden" / "tide_errors.json"
Rows = list[dict[str, Any]]
ALONE = [100.0, 100.0, 120.0, 120.0]


def batch(found: list[tuple[list[float], int, float]], true: list[tuple[list[float], int, bool]]) -> tuple[Any, Any]:
    """One image's detections (box, label, score) and true boxes (box, label, crowd)."""
    boxes, labels, scores = ([row[k] for row in found] for k in range(3))
    true_boxes, true_labels, crowds = ([row[k] for row in true] for k in range(3))
    return (
        DetectionBatch(
            boxes=np.array([boxes], dtype=np.float64).reshape(1, -1, 4), labels=np.array([labels], dtype=np.int64),
            scores=np.array([scores], dtype=np.float64), mask=np.ones((1, len(found)), dtype=bool),
        ),
        TruthBatch(
            boxes=np.array([true_boxes], dtype=np.float64).reshape(1, -1, 4), labels=np.array([true_labels], dtype=np.int64),
            area=np.full((1, len(true)), 400.0), iscrowd=np.array([crowds], dtype=bool),
            mask=np.ones((1, len(true)), dtype=bool),
        ),
    )  # fmt: skip


def broken_down(
    found: list[tuple[list[float], int, float]], true: list[tuple[list[float], int, bool]]
) -> ErrorBreakdown:
    return error_breakdown(*batch(found, true), num_classes=2)


def only(kind: str) -> dict[str, int]:
    return {name: int(name == kind) for name in ERRORS}


RIGHT = ([0.0, 0.0, 20.0, 20.0], 1, 0.5)
"""The right detection of a true box of class 1; every case adds one error with a higher score."""
TRUE = ([0.0, 0.0, 20.0, 20.0], 1, False)
AWAY = ([100.0, 100.0, 108.0, 120.0], 0.9)
"""A box that has IoU 0.4 with ALONE, and its score."""


@pytest.mark.parametrize(
    ("kind", "wrong", "mended_ap"),
    [
        ("localisation", (AWAY[0], 1, 0.9), 1.0),
        ("classification", (ALONE, 2, 0.9), 1.0),
        ("both", (AWAY[0], 2, 0.9), 51 / 101),
        ("background", ([60.0, 60.0, 80.0, 80.0], 1, 0.9), 51 / 101),
    ],
)
def test_each_kind_is_found_by_hand(kind: str, wrong: tuple[list[float], int, float], mended_ap: float) -> None:
    own = broken_down([wrong, RIGHT], [TRUE, (ALONE, 1, False)])
    assert {name: own.counts[name] for name in OF_DETECTIONS} == {name: only(kind)[name] for name in OF_DETECTIONS}
    assert own.counts["missed"] == (kind in ("both", "background"))  # the other two mend the true box that is not found
    assert own.ap50 + own.gains[kind] == pytest.approx(mended_ap)


def test_a_second_detection_of_a_true_box_is_a_duplicate() -> None:
    own = broken_down([(TRUE[0], 1, 0.9), (TRUE[0], 1, 0.8), (ALONE, 1, 0.7)], [TRUE, (ALONE, 1, False)])
    assert own.counts == only("duplicate")
    assert own.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert own.gains["duplicate"] == own.gains["false_positives"] == pytest.approx(1 - own.ap50)
    assert own.gains["false_negatives"] == own.gains["missed"] == 0


def test_a_missed_object_is_taken_from_those_to_be_found() -> None:
    own = broken_down([RIGHT], [TRUE, (ALONE, 1, False)])
    assert own.counts == only("missed")
    assert own.gains["missed"] == own.gains["false_negatives"] == pytest.approx(1 - 51 / 101)
    assert own.gains["false_positives"] == 0


def test_of_two_errors_at_a_true_box_the_one_with_the_higher_score_mends_it() -> None:
    own = broken_down([(ALONE, 2, 0.9), (AWAY[0], 1, 0.8)], [(ALONE, 1, False)])
    assert own.counts == {**only("classification"), "localisation": 1}
    assert own.gains["classification"] == pytest.approx(1)  # the localisation error behind it has the lower score
    assert own.gains["localisation"] == 0


def test_what_lies_in_a_crowd_is_no_error() -> None:
    own = broken_down([(ALONE, 1, 0.9), RIGHT], [TRUE, (ALONE, 1, True)])
    assert own.counts == dict.fromkeys(ERRORS, 0)
    assert own.ap50 == pytest.approx(1)


def test_images_without_boxes_have_only_background_errors_or_none() -> None:
    own = broken_down([(ALONE, 1, 0.9)], [])
    assert own.counts == only("background")
    assert np.isnan(own.ap50)
    assert all(np.isnan(gain) for gain in own.gains.values())
    missed = broken_down([], [TRUE])
    assert missed.counts == only("missed")
    assert missed.ap50 == 0
    assert not any(missed.gains.values())  # a class without any detection keeps AP 0
    assert broken_down([], []).counts == dict.fromkeys(ERRORS, 0)


def slow_iou(one: list[float], other: list[float]) -> float:
    width, height = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared)


def slow_ap50(found: Rows, true: Rows) -> float:
    """Precision at 101 recalls, over classes; a mended true box is `gone`."""
    aps = []
    for label in {row["label"] for row in true}:
        total = sum(row["label"] == label and not row.get("gone") for row in true)
        own, right, shown = sorted((row for row in found if row["label"] == label), key=lambda row: -row["score"]), 0, 0
        points = []
        for row in own:
            shown, right = shown + 1, right + row["right"]
            points.append((right / max(total, 1), right / shown))
        recalls = np.linspace(0, 1, 101).tolist()
        aps.append(
            np.mean([max((p for r, p in points if r >= recall), default=0) for recall in recalls]) if total else 0
        )
    return float(np.mean(aps))


def slow_breakdown(detections: DetectionBatch, truths: TruthBatch) -> tuple[dict[str, int], dict[str, float]]:
    """The docstring of `rl_det.metrics.errors`, read aloud, for scenes without crowds and ties."""
    found: Rows = []
    true: Rows = []
    for b in range(len(detections)):
        boxes = [{"label": int(truths.labels[b, g]), "box": truths.boxes[b, g].tolist(), "found": False, "mended": False}
                 for g in np.flatnonzero(truths.mask[b])]  # fmt: skip
        rows = [{"label": int(detections.labels[b, n]), "box": detections.boxes[b, n].tolist(), "to": None,
                 "score": float(detections.scores[b, n])} for n in np.flatnonzero(detections.mask[b])]  # fmt: skip
        rows.sort(key=lambda row: -row["score"])
        for row in rows:
            free = [box for box in boxes if box["label"] == row["label"] and not box["found"]]
            best = max(free, key=lambda box: slow_iou(row["box"], box["box"]), default=None)
            row["right"] = best is not None and slow_iou(row["box"], best["box"]) >= 0.5
            if row["right"]:
                best["found"] = True
        for row in rows:
            if not row["right"]:
                row["kind"], row["to"] = slow_kind(row, boxes)
        found, true = found + rows, true + boxes
    counts = {kind: sum(row.get("kind") == kind for row in found) for kind in OF_DETECTIONS}
    missed = [box for box in true if not box["found"] and not box["mended"]]
    before, gains = slow_ap50(found, true), {}
    for kind in OF_DETECTIONS:
        kept = [row for row in found if row.get("kind") != kind]
        mended = [{**row, "right": True, "label": row["to"]["label"]} for row in found
                  if row.get("kind") == kind and row["to"]]  # fmt: skip
        gains[kind] = slow_ap50(kept + mended, true) - before
    gains["missed"] = slow_ap50(found, [{**box, "gone": box in missed} for box in true]) - before
    gains["false_positives"] = slow_ap50([row for row in found if row["right"]], true) - before
    gains["false_negatives"] = slow_ap50(found, [{**box, "gone": not box["found"]} for box in true]) - before
    return {**counts, "missed": len(missed)}, gains


def slow_kind(row: dict[str, Any], boxes: Rows) -> tuple[str, dict[str, Any] | None]:
    near = [(slow_iou(row["box"], box["box"]), box["label"] == row["label"], box) for box in boxes]
    own, others = ([(iou, box) for iou, same, box in near if same is wanted] for wanted in (True, False))
    best, best_box = max(own, key=lambda pair: pair[0], default=(0.0, None))
    other, other_box = max(others, key=lambda pair: pair[0], default=(0.0, None))
    if 0.1 <= best <= 0.5:
        kind, box = "localisation", best_box
    elif other >= 0.5:
        kind, box = "classification", other_box
    elif best > 0.5:
        return "duplicate", None
    else:
        return ("background" if max(best, other) <= 0.1 else "both"), None
    assert box is not None
    if box["found"] or box["mended"]:
        return kind, None
    box["mended"] = True
    return kind, box


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_slow_reading_of_the_definition_gives(seed: int) -> None:
    detections, truths = error_scenes(100 + seed)
    own = error_breakdown(detections, truths, num_classes=NUM_CLASSES)
    counts, gains = slow_breakdown(detections, truths)
    assert own.counts == counts
    assert own.gains == pytest.approx(gains, abs=1e-12)
    assert set(gains) == {*ERRORS, *TOTALS}


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_the_authors_program_says(seed: int) -> None:
    """Their recall points are k / 100, and COCO's differ in the last digit: a point that is reached exactly may be lost."""
    told = json.loads(GOLDEN.read_text())["scenes"][str(seed)]
    own = error_breakdown(*error_scenes(seed), num_classes=NUM_CLASSES)
    assert own.counts == told["counts"]
    assert own.ap50 == pytest.approx(told["ap50"], abs=2e-3)
    assert {kind: max(gain, 0) for kind, gain in own.gains.items()} == pytest.approx(told["gains"], abs=4e-3)


@pytest.mark.parametrize("crowds", [0.0, 0.5])
def test_its_ap50_is_the_engines(crowds: float) -> None:
    detections, truths = error_scenes(7, crowds=crowds)
    own = error_breakdown(detections, truths, num_classes=NUM_CLASSES)
    assert own.ap50 == pytest.approx(coco_figures(detections, truths, num_classes=NUM_CLASSES)["AP50"], abs=1e-12)
