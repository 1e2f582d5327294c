"""The engine against numbers that pycocotools gave once, in tests/golden; the script that made them is beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_det.ap.average_precision import image_ap
from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.data_set import coco_figures
from rl_det.ap.leave_one_out import leave_one_out
from rl_det.ap.matching import match

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "coco_scenes.json").read_text())


def batches(scene: dict[str, Any]) -> tuple[DetectionBatch, TruthBatch]:
    detections, truths = (
        {name: np.array(values) for name, values in scene[part].items()} for part in ("detections", "truths")
    )
    return DetectionBatch(**detections), TruthBatch(**truths)


@pytest.mark.parametrize("scene", GOLDEN["scenes"], ids=["few crowds", "crowds", "many detections"])
def test_images_their_detections_and_the_data_set_are_worth_what_pycocotools_said(scene: dict[str, Any]) -> None:
    detections, truths = batches(scene)
    expected = np.array(scene["image_ap"], dtype=float)
    aps = image_ap(match(detections, truths, num_classes=GOLDEN["num_classes"]))[0]
    np.testing.assert_allclose(aps, expected, rtol=0, atol=1e-12)
    aps, worth = leave_one_out(detections, truths, num_classes=GOLDEN["num_classes"])
    np.testing.assert_allclose(aps, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(worth, scene["worth"], rtol=0, atol=1e-12)
    figures = coco_figures(detections, truths, num_classes=GOLDEN["num_classes"])
    np.testing.assert_allclose(list(figures.values()), np.array(scene["figures"], dtype=float), rtol=0, atol=1e-12)
