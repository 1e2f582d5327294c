"""The lists that surrogates rank: for each class, the candidates of several images, right or wrong as in COCO."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rl_det.ap.batch import TruthBatch
from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.options import IOU_THRESHOLDS
from rl_det.ap.padding import candidate_relations, pad_targets
from rl_det.boxes import iou
from rl_det.types import Candidates, Target


@dataclass(frozen=True, kw_only=True)
class MatchedCandidates:
    """B images' candidates after matching: which ones NMS keeps, and at which IoU thresholds each is right or not counted.

    `iou` is the IoU with the nearest true box of the candidate's class, and `object_box` is that box. Without such a
    box they are 0 and the candidate's own box. `positives` is the number of true boxes of each class.
    """

    labels: Int[Tensor, "B N"]
    kept: Bool[Tensor, "B N"]
    right: Bool[Tensor, "T B N"]
    ignored: Bool[Tensor, "T B N"]
    iou: Float[Tensor, "B N"]
    object_box: Float[Tensor, "B N 4"]
    positives: Float[Tensor, " C"]


def match_candidates(
    boxes: Float[Tensor, "B N 4"],
    logits: Float[Tensor, "B N"],
    candidates: Candidates,
    targets: Sequence[Target],
    num_classes: int,
    nms_iou: float,
) -> MatchedCandidates:
    """Apply NMS, and COCO's matching at all thresholds, by the AP engine."""
    moved = Candidates(
        boxes=boxes, labels=candidates.labels, logits=logits, mask=candidates.mask, index=candidates.index
    )
    truths = pad_targets(targets)
    related = candidate_relations(moved, truths, num_classes=num_classes)
    scores = np.ascontiguousarray(logits.double().numpy(force=True))
    matches = CandidatePool(related, scores, nms_iou=nms_iou).matches
    image, place = np.nonzero(np.arange(logits.shape[1]) < matches.starts[:, -1:])
    candidate = matches.order[image, place]
    kept = np.zeros(logits.shape, dtype=np.bool_)
    kept[image, candidate] = True
    bits = np.zeros((2, *logits.shape), dtype=np.int64)
    bits[0, image, candidate], bits[1, image, candidate] = (
        matches.hits[0, image, place],
        matches.ignored[0, image, place],
    )
    threshold = np.arange(len(IOU_THRESHOLDS)).reshape(-1, 1, 1, 1)
    right, ignored = (torch.from_numpy((bits >> threshold & 1).astype(np.bool_)).to(boxes.device)).unbind(1)
    overlap, object_box = nearest_objects(boxes, candidates, truths)
    return MatchedCandidates(
        labels=candidates.labels,
        kept=torch.from_numpy(kept).to(boxes.device),
        right=right,
        ignored=ignored,
        iou=overlap,
        object_box=object_box,
        positives=torch.from_numpy(related.positives.sum(0)).to(boxes),
    )


def nearest_objects(
    boxes: Float[Tensor, "B N 4"], candidates: Candidates, truths: TruthBatch
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N 4"]]:
    """Each candidate's IoU with the nearest non-crowd true box of its class, and that box; else 0 and its own box."""
    if not truths.mask.size:
        return torch.zeros_like(boxes[..., 0]), boxes
    wanted = torch.from_numpy(truths.mask & ~truths.iscrowd).to(boxes.device)
    labels, true_boxes = torch.from_numpy(truths.labels).to(boxes.device), torch.from_numpy(truths.boxes).to(boxes)
    allowed = wanted[:, None] & (labels[:, None] == candidates.labels[..., None]) & candidates.mask[..., None]
    overlap, nearest = iou(boxes[:, :, None], true_boxes[:, None]).where(allowed, 0.0).max(2)
    found = true_boxes.gather(1, nearest[..., None].expand(-1, -1, 4))
    return overlap, found.where((overlap > 0)[..., None], boxes)


@dataclass(frozen=True, kw_only=True)
class ClassLists:
    """The kept candidates of all images, class by class, padded to the longest; only classes that have true boxes.

    `scores` and `error`, the distance of the boxes from their objects, have a graph. With `num_positives`, the loss is
    a mean over the classes of means over their true boxes.
    """

    scores: Float[Tensor, "C M"]
    right: Bool[Tensor, "T C M"]
    counted: Bool[Tensor, "T C M"]
    iou: Float[Tensor, "C M"]
    error: Float[Tensor, "C M"]
    num_positives: Float[Tensor, " C"]


def class_lists(matched: MatchedCandidates, logits: Float[Tensor, "B N"], error: Float[Tensor, "B N"]) -> ClassLists:
    """The matched candidates as lists to rank."""
    present = matched.positives > 0
    ranked = (matched.kept & present[matched.labels - 1]).flatten().nonzero().flatten()
    labels, order = matched.labels.flatten()[ranked].sort(stable=True)
    ranked = ranked[order]
    place = torch.arange(len(ranked), device=ranked.device) - torch.searchsorted(labels, labels)
    shape = len(present), int(place.max()) + 1 if len(place) else 0
    index, mask = ranked.new_zeros(shape), torch.zeros(shape, dtype=torch.bool, device=ranked.device)
    index[labels - 1, place], mask[labels - 1, place] = ranked, True
    index, mask = index[present], mask[present]
    right, ignored = (part.flatten(1)[:, index] for part in (matched.right, matched.ignored))
    return ClassLists(
        scores=logits.flatten()[index],
        right=right & mask,
        counted=mask & ~ignored,
        iou=matched.iou.flatten()[index],
        error=error.flatten()[index],
        num_positives=matched.positives[present] * present.sum(),
    )
