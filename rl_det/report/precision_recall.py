"""Each class's precision-recall curve and AP on a split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.data_set import class_precision
from rl_det.ap.matching import match
from rl_det.ap.padding import by_image_id, pad_targets
from rl_det.progress import tell
from rl_det.storage.run import Run
from rl_det.types import Target


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Interpolated precision at COCO's ten IoU thresholds and 101 recalls; NaN for a class without true boxes."""

    classes: tuple[str, ...]
    precision: Float64[np.ndarray, "T R C"]

    @property
    def class_ap(self) -> dict[str, float]:
        """COCO's AP of each class, in [0, 1]."""
        return dict(zip(self.classes, self.precision.mean((0, 1)).tolist(), strict=True))


def curves_of_batch(detections: DetectionBatch, targets: Sequence[Target], classes: Sequence[str]) -> Curves:
    """The curves of a padded batch, over all its images together."""
    matches = match(detections, pad_targets(targets), num_classes=len(classes))[
        np.array(by_image_id(targets), dtype=np.int64)
    ]
    return Curves(classes=tuple(classes), precision=class_precision(matches)[0])


def log_curves(run: Run, step: int, stage: str, curves: Curves) -> None:
    """Write three lines of metrics: each class's AP, its curve at IoU 0.5, and the mean of its curves at all ten thresholds.

    A curve is a list, precision at recall 0, 0.01, ..., 1. Lines of the same stage that the run has already are replaced.
    """
    lines: dict[str, dict[str, float | list[float]]] = {f"{stage}_AP": dict(curves.class_ap)}
    for name, precision in (("precision_50", curves.precision[0]), ("precision", curves.precision.mean(0))):
        lines[f"{stage}_{name}"] = dict(zip(curves.classes, precision.T.tolist(), strict=True))
    run.drop_metrics_after(lines.keys(), -1, tell)
    for name, metrics in lines.items():
        run.log(step, name, metrics)
