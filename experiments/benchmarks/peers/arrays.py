"""The evaluators that read arrays: hotcoco, vernier, ultrafast-pycocotools. All three are written in Rust."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import ultrafast_pycocotools
from peers.coco_form import annotations, coco_dictionary, dictionary_of, image_rows, scene_rows, truth_rows
from peers.peer import ALL_AREAS, MOST, THRESHOLDS, Images, silent, twelve_figures
from peers.pseudo_image import ap_of_outcomes, pseudo_image
from ultrafast_pycocotools import _ufcoco as ultrafast_native
from vernier import instance as vernier
from vernier._core import evaluate_bbox_grid

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.options import COCO


@dataclass(frozen=True)
class Hotcoco:
    """From arrays, without a dictionary per box. Its `slice_by`, which can give AP per image, is slower."""

    few_points: bool = True
    name: str = "hotcoco"

    def prepare_images(self, truths: TruthBatch, num_classes: int) -> Images:
        scene = pseudo_image(truths, num_classes, few_points=self.few_points)
        return Images(scene, _hotcoco(1, len(scene), scene_rows(scene), scene.area, scene.iscrowd))

    def image_ap(self, images: Images, detections: DetectionBatch) -> np.ndarray:
        scene = images.scene
        if not len(scene):
            return scene.mean_of_categories(np.zeros(0))
        evaluation = hotcoco.COCOeval(images.truths, images.truths.load_res(scene.rows(detections)), "bbox")
        params = evaluation.params
        params.area_rng, params.area_rng_lbl, params.max_dets = ALL_AREAS, ["all"], [MOST]
        params.rec_thrs = scene.recall_points.tolist()
        evaluation.evaluate()
        evaluation.accumulate()
        return scene.image_ap(evaluation.eval["precision"][..., 0, 0])

    def prepare_data_set(self, truths: TruthBatch, num_classes: int) -> Any:
        return _hotcoco(len(truths), num_classes, *truth_rows(truths))

    def load(self, data_set: Any, detections: DetectionBatch) -> Any:
        return data_set.load_res(image_rows(detections))

    def evaluate(self, data_set: Any, loaded: Any) -> np.ndarray:
        return twelve_figures(hotcoco.COCOeval(data_set, loaded, "bbox"))


def _hotcoco(num_images: int, num_labels: int, rows: np.ndarray, area: np.ndarray, iscrowd: np.ndarray) -> Any:
    empty = coco_dictionary(num_images, num_labels, [])
    image, label = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64)
    return hotcoco.COCO.from_arrays(
        empty["images"], empty["categories"], image, label, rows[:, 1:5], area=area, iscrowd=iscrowd.astype(np.int64)
    )


@dataclass(frozen=True)
class Vernier:
    """From arrays, in its strict mode. Its partitions, which can give AP per image, are slower."""

    few_points: bool = True
    name: str = "vernier"

    def prepare_images(self, truths: TruthBatch, num_classes: int) -> Images:
        scene = pseudo_image(truths, num_classes, few_points=self.few_points)
        areas = vernier.Breakdown.from_ranges("area", [("all", *COCO.area_range)])
        data_set = _vernier(1, len(scene), scene_rows(scene), scene.area, scene.iscrowd)
        return Images(scene, (data_set, areas, scene.recall_points.tolist()))

    def image_ap(self, images: Images, detections: DetectionBatch) -> np.ndarray:
        scene = images.scene
        if not len(scene):
            return scene.mean_of_categories(np.zeros(0))
        data_set, areas, points = images.truths
        grid = evaluate_bbox_grid(
            data_set, scene.rows(detections), parity_mode="strict", max_dets_per_image=MOST, use_cats=True,
            recall_thresholds=points, area_ranges=areas, num_threads=1,
        )  # fmt: skip
        return scene.image_ap(grid.accumulate([MOST]).precision[..., 0, 0])

    def prepare_data_set(self, truths: TruthBatch, num_classes: int) -> Any:
        return _vernier(len(truths), num_classes, *truth_rows(truths))

    def load(self, data_set: Any, detections: DetectionBatch) -> Any:
        return image_rows(detections)

    def evaluate(self, data_set: Any, loaded: Any) -> np.ndarray:
        evaluator = vernier.Evaluator(iou=vernier.Bbox(), parity_mode="strict")
        return np.asarray(evaluator.evaluate(data_set, loaded, num_threads=1).stats)


def _vernier(num_images: int, num_labels: int, rows: np.ndarray, area: np.ndarray, iscrowd: np.ndarray) -> Any:
    sides = np.full(num_images, 640)
    images = {"id": np.arange(1, num_images + 1), "width": sides, "height": sides, "file_name": [None] * num_images}
    boxes = {
        "id": np.arange(1, len(rows) + 1),
        "image_id": rows[:, 0].astype(np.int64),
        "category_id": rows[:, 6].astype(np.int64),
        "bbox": np.ascontiguousarray(rows[:, 1:5]),
        "area": area,
        "iscrowd": iscrowd.astype(np.int64),
    }
    categories = [{"id": label, "name": str(label)} for label in range(1, num_labels + 1)]
    return vernier.CocoDataset.from_arrays(images, boxes, categories)


@dataclass(frozen=True)
class Ultrafast:
    """From arrays, into its native part: `COCO.loadRes` copies the categories each time.

    `from_matches` takes what became of each detection from the native part of its `DetectionMetrics`, and AP from there in
    numpy; it computes no AP itself then. Else its own curves, at the few recall points that are needed or at all.
    """

    few_points: bool = True
    from_matches: bool = True
    name: str = "ultrafast-pycocotools"

    def prepare_images(self, truths: TruthBatch, num_classes: int) -> Images:
        scene = pseudo_image(truths, num_classes, few_points=self.few_points)
        if self.from_matches:
            xyxy = np.concatenate([scene.boxes_xywh[:, :2], scene.boxes_xywh[:, :2] + scene.boxes_xywh[:, 2:]], 1)
            columns = {"boxes": xyxy, "labels": scene.categories, "area": scene.area, "iscrowd": scene.iscrowd}
            return Images(scene, [columns])
        boxes = annotations(scene_rows(scene), scene.area, scene.iscrowd)
        return Images(scene, _ultrafast(coco_dictionary(1, len(scene), boxes)))

    def image_ap(self, images: Images, detections: DetectionBatch) -> np.ndarray:
        scene = images.scene
        if not len(scene):
            return scene.mean_of_categories(np.zeros(0))
        if self.from_matches:
            return self._ap_of_matches(images, detections)
        engine = ultrafast_native.Evaluator(
            images.truths._compact, ultrafast_native.load_compact_array(scene.rows(detections)), {}, [1],
            list(range(1, len(scene) + 1)), THRESHOLDS.tolist(), scene.recall_points.tolist(), [MOST], ALL_AREAS, True,
            "bbox", [],
        )  # fmt: skip
        return scene.image_ap(engine.run(False)["precision"][..., 0, 0])

    def _ap_of_matches(self, images: Images, detections: DetectionBatch) -> np.ndarray:
        scene = images.scene
        categories = scene.categories_in(detections)
        kept = categories > 0
        found = {
            "boxes": detections.boxes[kept].astype(np.float64),
            "scores": detections.scores[kept].astype(np.float64),
            "labels": categories[kept],
        }
        matched = ultrafast_native.box_batch(
            [found], images.truths, True, THRESHOLDS.tolist(), ALL_AREAS[0], MOST, True, None
        )
        outcome = np.ascontiguousarray(matched["outcome"].T)
        hits = outcome == ultrafast_native.OUTCOME_TRUE_POSITIVE
        return ap_of_outcomes(scene, matched["det_cat"], hits, outcome != ultrafast_native.OUTCOME_IGNORED)

    def prepare_data_set(self, truths: TruthBatch, num_classes: int) -> Any:
        return _ultrafast(dictionary_of(truths, num_classes))

    def load(self, data_set: Any, detections: DetectionBatch) -> Any:
        with silent():
            return data_set.loadRes(image_rows(detections))

    def evaluate(self, data_set: Any, loaded: Any) -> np.ndarray:
        return twelve_figures(ultrafast_pycocotools.COCOeval(data_set, loaded, "bbox"))


def _ultrafast(dictionary: dict[str, Any]) -> Any:
    """Through a file: what it reads from one it keeps as arrays, what it is given as dictionaries it reads in each call."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truths.json"
        path.write_text(json.dumps(dictionary), encoding="utf-8")
        return ultrafast_pycocotools.COCO(path, verbose=False)
