"""The evaluators that want a dictionary per box: pycocotools, faster-coco-eval, torchmetrics."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import faster_coco_eval
import faster_coco_eval.faster_eval_api_cpp as faster_native
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import torch
from faster_coco_eval.core import mask as faster_mask
from peers.coco_form import annotations, dictionary_of, image_rows, results, scene_rows
from peers.peer import ALL_AREAS, MOST, THRESHOLDS, Images, silent, twelve_figures
from peers.pseudo_image import PseudoImage, ap_of_outcomes, pseudo_image
from torchmetrics.detection import MeanAveragePrecision

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.options import RECALL_POINTS


@dataclass(frozen=True)
class Pycocotools:
    """The reference. Its tables of boxes by category are filled directly: `loadRes` and `_prepare` cost as much again.

    `from_matches` stops after its matching and takes AP from there in numpy; else its own `accumulate` follows, at the few
    recall points that are needed or at all.
    """

    few_points: bool = True
    from_matches: bool = True
    name: str = "pycocotools"

    def prepare_images(self, truths: TruthBatch, num_classes: int) -> Images:
        scene = pseudo_image(truths, num_classes, few_points=self.few_points)
        tables = defaultdict(list)
        for box in annotations(scene_rows(scene), scene.area, scene.iscrowd):
            tables[1, box["category_id"]].append(box)
        return Images(scene, tables)

    def image_ap(self, images: Images, detections: DetectionBatch) -> np.ndarray:
        scene, rows = images.scene, images.scene.rows(detections)
        evaluation = pycocotools.cocoeval.COCOeval(iouType="bbox")
        restrict(evaluation.params, scene)
        evaluation._gts = images.truths
        for i, box in enumerate(results(rows), 1):
            box["id"], box["area"] = i, box["bbox"][2] * box["bbox"][3]
            evaluation._dts[1, box["category_id"]].append(box)
        categories = evaluation.params.catIds
        evaluation.ious = {(1, category): evaluation.computeIoU(1, category) for category in categories}
        matched = [evaluation.evaluateImg(1, category, ALL_AREAS[0], MOST) for category in categories]
        if self.from_matches:
            return _ap_of_matches(scene, matched)
        evaluation.evalImgs, evaluation._paramsEval = matched, evaluation.params
        with silent():
            evaluation.accumulate()
        return scene.image_ap(evaluation.eval["precision"][..., 0, 0])

    def prepare_data_set(self, truths: TruthBatch, num_classes: int) -> Any:
        with silent():
            return _indexed(dictionary_of(truths, num_classes))

    def load(self, data_set: Any, detections: DetectionBatch) -> Any:
        with silent():
            return data_set.loadRes(results(image_rows(detections)))

    def evaluate(self, data_set: Any, loaded: Any) -> np.ndarray:
        return twelve_figures(pycocotools.cocoeval.COCOeval(data_set, loaded, "bbox"))


def _ap_of_matches(scene: PseudoImage, matched: list[dict[str, Any]]) -> np.ndarray:
    """From pycocotools' matches, one dictionary per category."""
    if not matched:
        return scene.mean_of_categories(np.zeros(0))
    hits = np.concatenate([category["dtMatches"] for category in matched], 1) > 0
    counted = ~np.concatenate([category["dtIgnore"] for category in matched], 1)
    categories = np.repeat(np.arange(1, len(scene) + 1), [len(category["dtIds"]) for category in matched])
    return ap_of_outcomes(scene, categories, hits & counted, counted)


def _indexed(dictionary: dict[str, Any]) -> Any:
    coco = pycocotools.coco.COCO()
    coco.dataset = dictionary
    coco.createIndex()
    return coco


@dataclass(frozen=True)
class FasterCocoEval:
    """Its C++ part called directly: its Python part spends half of the time on indexes that one image does not need."""

    few_points: bool = True
    name: str = "faster-coco-eval"

    def prepare_images(self, truths: TruthBatch, num_classes: int) -> Images:
        scene = pseudo_image(truths, num_classes, few_points=self.few_points)
        params = faster_coco_eval.COCOeval_faster(iouType="bbox").params
        restrict(params, scene)
        table = faster_native.Dataset()
        boxes = annotations(scene_rows(scene), scene.area, scene.iscrowd)
        for box in boxes:
            table.append_ref(1, box["category_id"], box)
        ends = np.searchsorted(scene.categories, np.arange(2, len(scene) + 1))
        parts = np.split(scene.boxes_xywh, ends), [part.tolist() for part in np.split(scene.iscrowd, ends)]
        return Images(scene, (params, table, boxes, parts))  # the table holds no more than references to the boxes

    def image_ap(self, images: Images, detections: DetectionBatch) -> np.ndarray:
        scene = images.scene
        params, table, _, (boxes, crowds) = images.truths
        rows = scene.rows(detections)
        rows = rows[np.lexsort((-rows[:, 5], rows[:, 6]))]
        found = [
            {"id": i, "score": score, "area": width * height}
            for i, (width, height, score) in enumerate(rows[:, 3:6].tolist(), 1)
        ]
        dataset = faster_native.Dataset()
        for category, box in zip(rows[:, 6].tolist(), found, strict=True):
            dataset.append_ref(1, category, box)
        corners = np.ascontiguousarray(rows[:, 1:5])
        starts = np.searchsorted(rows[:, 6], np.arange(1, len(scene) + 2)).tolist()
        of_class = boxes[: len(scene)], crowds[: len(scene)]
        ious = [
            faster_mask.iou(corners[start : min(end, start + MOST)], theirs, crowd) if end > start else []
            for start, end, theirs, crowd in zip(starts[:-1], starts[1:], *of_class, strict=True)
        ]
        answer = faster_native.COCOevalEvaluateAccumulate(
            params, [ious], table, dataset, params.imgIds, params.catIds, True
        )
        return scene.image_ap(np.asarray(answer["precision"])[..., 0, 0])

    def prepare_data_set(self, truths: TruthBatch, num_classes: int) -> Any:
        return faster_coco_eval.COCO(dictionary_of(truths, num_classes))

    def load(self, data_set: Any, detections: DetectionBatch) -> Any:
        return data_set.loadRes(results(image_rows(detections)))

    def evaluate(self, data_set: Any, loaded: Any) -> np.ndarray:
        return twelve_figures(faster_coco_eval.COCOeval_faster(data_set, loaded, "bbox"))


@dataclass(frozen=True)
class Torchmetrics:
    """Its faster backend, with precision per category (`extended_summary`); all area ranges and three maxima are its fate.

    Takes the true boxes anew each time. Its twelve figures are float32; its default recall points and thresholds are too, so it
    is given COCO's. A true area of 0 it takes for missing, and puts the box's: then the figures by size differ from COCO's.
    """

    few_points: bool = True
    name: str = "torchmetrics"

    def prepare_images(self, truths: TruthBatch, num_classes: int) -> Images:
        scene = pseudo_image(truths, num_classes, few_points=self.few_points)
        xyxy = np.concatenate([scene.boxes_xywh[:, :2], scene.boxes_xywh[:, :2] + scene.boxes_xywh[:, 2:]], 1)
        columns = {"boxes": xyxy, "labels": scene.categories, "area": scene.area, "iscrowd": scene.iscrowd}
        return Images(scene, [{name: torch.from_numpy(column) for name, column in columns.items()}])

    def image_ap(self, images: Images, detections: DetectionBatch) -> np.ndarray:
        scene = images.scene
        if not len(scene):
            return scene.mean_of_categories(np.zeros(0))
        categories = scene.categories_in(detections)
        metric = _metric(scene.recall_points, extended_summary=True)
        metric.update([_found(detections, categories > 0, categories)], images.truths)
        return scene.image_ap(metric.compute()["precision"][..., 0, -1].numpy())

    def prepare_data_set(self, truths: TruthBatch, num_classes: int) -> Any:
        columns = {"boxes": truths.boxes.astype(np.float64), "labels": truths.labels, "area": truths.area}
        columns["iscrowd"] = truths.iscrowd.astype(np.int64)
        return [
            {name: torch.from_numpy(column[image][truths.mask[image]]) for name, column in columns.items()}
            for image in range(len(truths))
        ]

    def load(self, data_set: Any, detections: DetectionBatch) -> Any:
        metric = _metric(RECALL_POINTS)
        found = [
            _found(_image(detections, image), detections.mask[image], detections.labels[image])
            for image in range(len(detections))
        ]
        metric.update(found, data_set)
        return metric

    def evaluate(self, data_set: Any, loaded: Any) -> np.ndarray:
        answer = loaded.compute()
        names = ["map", "map_50", "map_75", "map_small", "map_medium", "map_large"]
        names += ["mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large"]
        return np.array([float(answer[name]) for name in names])


def _metric(recall_points: np.ndarray, *, extended_summary: bool = False) -> MeanAveragePrecision:
    metric = MeanAveragePrecision(
        iou_thresholds=THRESHOLDS.tolist(), rec_thresholds=recall_points.tolist(), extended_summary=extended_summary,
        backend="faster_coco_eval",
    )  # fmt: skip
    metric.warn_on_many_detections = False
    return metric


def _image(detections: DetectionBatch, image: int) -> DetectionBatch:
    return DetectionBatch(**{name: column[image] for name, column in vars(detections).items()})


def _found(detections: DetectionBatch, kept: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
    columns = {
        "boxes": detections.boxes[kept].astype(np.float64),
        "scores": detections.scores[kept],
        "labels": labels[kept],
    }
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def restrict(params: Any, scene: PseudoImage) -> None:
    """Ask a pycocotools-like evaluator for no more than AP per category of the pseudo image."""
    params.areaRng, params.areaRngLbl, params.maxDets = ALL_AREAS, ["all"], [MOST]
    params.imgIds, params.catIds, params.recThrs = [1], list(range(1, len(scene) + 1)), scene.recall_points
