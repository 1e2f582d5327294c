"""What an evaluator must do to be compared: AP of each image, and the twelve figures of a data set."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64
from peers.pseudo_image import PseudoImage

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.options import COCO

THRESHOLDS = np.asarray(COCO.iou_thresholds)
ALL_AREAS = [list(COCO.area_range)]
MOST = COCO.max_detections


@dataclass(frozen=True)
class Images:
    """What a peer keeps of B images' true boxes: the pseudo image, and its own form of it."""

    scene: PseudoImage
    truths: Any


class Peer(Protocol):
    """An evaluator and a way to use it."""

    @property
    def name(self) -> str: ...

    def prepare_images(self, truths: TruthBatch, num_classes: int) -> Images: ...

    def image_ap(self, images: Images, detections: DetectionBatch) -> Float64[np.ndarray, " B"]: ...

    def prepare_data_set(self, truths: TruthBatch, num_classes: int) -> Any: ...

    def load(self, data_set: Any, detections: DetectionBatch) -> Any: ...

    def evaluate(self, data_set: Any, loaded: Any) -> Float64[np.ndarray, "12"]: ...


def silent() -> contextlib.AbstractContextManager[Any]:
    """Without what evaluators print."""
    return contextlib.redirect_stdout(io.StringIO())


def twelve_figures(evaluation: Any) -> np.ndarray:
    """The twelve figures of an evaluator with pycocotools' methods."""
    with silent():
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)[:12]
