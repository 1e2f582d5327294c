"""What a user of pycocotools sets in `COCOeval.params` -> one frozen record, with COCO's own values by default."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from rl_det.errors import UserError
from rl_det.settings import at_least, check_settings

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's ten IoU thresholds, by COCO's own expression."""

RECALL_POINTS = np.linspace(0.0, 1.0, 101)

AREA_RANGES = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
"""COCO's sizes of objects, in square pixels."""

MAX_THRESHOLDS = 32  # a detection's outcome is one bit per IoU threshold


@dataclass(frozen=True, kw_only=True)
class CocoOptions:
    """How detections are matched and their precision is averaged; the names are pycocotools', spelled out.

    `area_range` is inclusive at both ends; `max_detections` holds per image and class, as in COCO.
    """

    iou_thresholds: tuple[float, ...] = tuple(IOU_THRESHOLDS.tolist())
    area_range: tuple[float, float] = AREA_RANGES["all"]
    max_detections: int = 100
    recall_points: tuple[float, ...] = tuple(RECALL_POINTS.tolist())

    def __post_init__(self) -> None:
        check_settings(self, area_range=at_least(0, infinite=True), max_detections=at_least(1))
        thresholds = self.iou_thresholds
        if not 0 < len(thresholds) <= MAX_THRESHOLDS or not _rise_within(thresholds, 1e-9, 1.0):
            raise UserError(
                f"iou_thresholds must be 1 to {MAX_THRESHOLDS} numbers that rise within (0, 1]; got {thresholds}; "
                "COCO's are 0.50, 0.55, ..., 0.95"
            )
        low, high = self.area_range
        if not 0 <= low <= high:
            raise UserError(f"area_range must be 0 <= low <= high, in square pixels; got {self.area_range}")
        if not self.recall_points or not _rise_within(self.recall_points, 0.0, 1.0):
            raise UserError(
                f"recall_points must rise within [0, 1]; got {self.recall_points}; COCO's are 0, 0.01, ..., 1"
            )

    @cached_property
    def needed_iou(self) -> Float64[np.ndarray, " T"]:
        """The least IoU that matches at each threshold, as pycocotools has it: an IoU of 1 always does."""
        needed: Float64[np.ndarray, " T"] = np.minimum(np.asarray(self.iou_thresholds), 1 - 1e-10)
        return needed

    @cached_property
    def recall_weights(self) -> "RecallWeights":
        """The tables of `recall_weights`, kept as they grow."""
        return RecallWeights(np.asarray(self.recall_points))


def _rise_within(numbers: tuple[float, ...], low: float, high: float) -> bool:
    return all(low <= number <= high for number in numbers) and list(numbers) == sorted(numbers)


class RecallWeights:
    """How many recall points the k-th of P true positives is the first to reach, as a share of all recall points.

    AP = sum over true positives k of weight[k] * (max precision from k on): the interpolation without its 101 points. The
    recall k / P is compared with a point as pycocotools compares them, in float64.
    """

    def __init__(self, points: Float64[np.ndarray, " R"]) -> None:
        self._points = points
        self._table = np.zeros((1, 1))

    def of(self, positives: int) -> Float64[np.ndarray, " K"]:
        """weight[k] for k = 0..P; weight[0] is 0."""
        weights = np.zeros(positives + 1)
        if positives:
            reached = np.searchsorted(np.arange(1, positives + 1) / positives, self._points, side="left")
            weights[1:] = np.bincount(reached, minlength=positives)[:positives] / len(self._points)
        return weights

    def up_to(self, positives: int) -> Float64[np.ndarray, "P K"]:
        """The table of all counts 0..positives at least: row P, column k, zeros behind k = P."""
        if len(self._table) <= positives:
            size = max(positives + 1, 2 * len(self._table))
            self._table = np.zeros((size, size))
            for count in range(size):
                self._table[count, : count + 1] = self.of(count)
        return self._table


COCO = CocoOptions()
"""COCO's own options."""
