"""What travels as torch tensors (detections, targets, candidates) -> the padded numpy batches that the engine takes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rl_det.ap.batch import DetectionBatch, TruthBatch
from rl_det.ap.relations import Relations, relations
from rl_det.types import Candidates, Detections, Target


def pad_detections(detections: Sequence[Detections]) -> DetectionBatch:
    """B images' detections in numpy; half precision becomes float32, which loses nothing."""
    return DetectionBatch(
        boxes=_padded([found["boxes"].reshape(-1, 4) for found in detections]),
        labels=_padded([found["labels"] for found in detections]),
        scores=_padded([found["scores"] for found in detections]),
        mask=_padded([torch.ones(len(found["labels"]), dtype=torch.bool) for found in detections]),
    )


def by_image_id(targets: Sequence[Target]) -> list[int]:
    """The targets' positions by rising image_id, equal ids as they stand: so pycocotools ranks equal scores of two images."""
    return sorted(range(len(targets)), key=lambda position: targets[position].image_id)


def pad_targets(targets: Sequence[Target]) -> TruthBatch:
    """B images' true boxes in numpy; half precision becomes float32."""
    return TruthBatch(
        boxes=_padded([target.boxes.reshape(-1, 4) for target in targets]),
        labels=_padded([target.labels for target in targets]),
        area=_padded([target.area for target in targets]),
        iscrowd=_padded([target.iscrowd for target in targets]),
        mask=_padded([torch.ones(len(target.labels), dtype=torch.bool) for target in targets]),
    )


def candidate_relations(candidates: Candidates, truths: TruthBatch, *, num_classes: int) -> Relations:
    """The relations of B images' candidates to each other and to their images' true boxes, on the host."""
    boxes, labels, mask = (
        _widened(part).numpy(force=True) for part in (candidates.boxes, candidates.labels, candidates.mask)
    )  # fmt: skip
    return relations(boxes, labels, mask, truths, num_classes=num_classes)


def _padded(rows: list[Tensor]) -> np.ndarray:
    """[B, N, ...], zeros behind each row's end."""
    return _widened(pad_sequence([row.detach().cpu() for row in rows], batch_first=True)).numpy()


def _widened(values: Tensor) -> Tensor:
    """The same in a precision that the engine takes."""
    narrow = values.dtype.is_floating_point and values.dtype not in (torch.float32, torch.float64)
    return values.float() if narrow else values
