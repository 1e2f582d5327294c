"""Random scenes -> tide_errors.json: what the authors' program, tidecv 1.0.1, makes of their errors.

    PYTHONPATH=tests python tests/golden/make_tide_errors.py

It needs `pip install tidecv`, which is not among the project's dependencies. There are no crowds here, as that version counts
what lies in one as an error, and the authors' later code does not.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from metrics.error_scenes import NUM_CLASSES, error_scenes
from tidecv.data import Data
from tidecv.quantify import TIDE, TIDERun

FILE = Path(__file__).with_name("tide_errors.json")
NAMES = {
    "Cls": "classification", "Loc": "localisation", "Dupe": "duplicate", "Bkg": "background", "Both": "both",
    "Miss": "missed", "FalsePos": "false_positives", "FalseNeg": "false_negatives",
}  # fmt: skip
SEEDS = range(8)


def xywh(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def errors_of(seed: int) -> dict[str, object]:
    detections, truths = error_scenes(seed)
    true, found = Data("truths"), Data("detections")
    for label in range(1, NUM_CLASSES + 1):
        true.add_class(label, str(label))
        found.add_class(label, str(label))
    for image in range(len(detections)):
        true.add_image(image, str(image))
        for place in np.flatnonzero(truths.mask[image]).tolist():
            true.add_ground_truth(image, int(truths.labels[image, place]), xywh(truths.boxes[image, place].tolist()))
        for place in np.flatnonzero(detections.mask[image]).tolist():
            own = (part[image, place] for part in (detections.labels, detections.scores, detections.boxes))
            label, score, box = own
            found.add_detection(image, int(label), float(score), xywh(box.tolist()))
    run = TIDERun(true, found, 0.5, 0.1, TIDE.BOX, 100)
    gains = {**run.fix_main_errors(), **run.fix_special_errors()}
    return {
        "ap50": run.ap / 100,
        "counts": {NAMES[kind.short_name]: count for kind, count in run.count_errors().items()},
        "gains": {NAMES[kind.short_name]: gain / 100 for kind, gain in gains.items()},
    }


if __name__ == "__main__":
    told = {"tidecv": version("tidecv"), "scenes": {str(seed): errors_of(seed) for seed in SEEDS}}
    FILE.write_text(json.dumps(told, indent=1) + "\n")
