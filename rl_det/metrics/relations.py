"""Boxes of candidates and truths -> who suppresses whom and who matches whom, as torchvision's NMS and COCO decide it.

Both are decided class by class, so a change of one candidate's score is felt only among the candidates of its class and
image: `resolve` answers for one such group at a time, and is cheap enough to be asked once per candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numba import prange
from torch import Tensor

from rl_det.metrics.compiled import compiled, compiled_in_parallel
from rl_det.types import Target


@dataclass(frozen=True, kw_only=True)
class Relations:
    """What B images' candidates are to each other and to the true boxes; nothing here depends on a score.

    `overlap` is the float32 IoU between candidates of one class (0 between classes), on which NMS decides; `iou` the float64
    IoU with the true boxes of the candidate's class (-1 elsewhere), for a crowd over the candidate's own area. True boxes
    stand crowds last, as COCO sorts them. `positives` counts the true boxes that are no crowd, per class.
    """

    overlap: Float32[np.ndarray, "B N N"]
    iou: Float64[np.ndarray, "B N G"]
    crowd: Bool[np.ndarray, "B G"]
    labels: Int64[np.ndarray, "B N"]
    mask: Bool[np.ndarray, "B N"]
    positives: Int64[np.ndarray, "B C"]


def relations(boxes: Tensor, labels: Tensor, mask: Tensor, targets: Sequence[Target], *, num_classes: int) -> Relations:
    """The relations of padded candidates [B, N] with their images' targets."""
    num_truths = max([1, *(len(target.labels) for target in targets)])
    truth = np.zeros((len(targets), num_truths, 4))
    truth_labels = np.zeros((len(targets), num_truths), dtype=np.int64)
    crowd = np.zeros((len(targets), num_truths), dtype=bool)
    positives = np.zeros((len(targets), num_classes), dtype=np.int64)
    for image, target in enumerate(targets):
        order = np.argsort(target.iscrowd.numpy(force=True), kind="stable")
        count = len(order)
        truth[image, :count] = target.boxes.numpy(force=True)[order]
        truth_labels[image, :count] = target.labels.numpy(force=True)[order]
        crowd[image, :count] = target.iscrowd.numpy(force=True)[order]
        counted = truth_labels[image, :count][~crowd[image, :count]]
        positives[image] = np.bincount(counted, minlength=num_classes + 1)[1:]
    candidate_boxes, candidate_labels = boxes.numpy(force=True), labels.numpy(force=True)
    overlap, iou = _pairwise(candidate_boxes, candidate_labels, mask.numpy(force=True), truth, truth_labels, crowd)
    return Relations(
        overlap=overlap,
        iou=iou,
        crowd=crowd,
        labels=candidate_labels,
        mask=mask.numpy(force=True),
        positives=positives,
    )


@compiled_in_parallel
def _pairwise(boxes: Any, labels: Any, mask: Any, truth: Any, truth_labels: Any, crowd: Any) -> Any:
    """Same-class IoU among candidates (float32, as torchvision's NMS) and with true boxes (float64, as pycocotools)."""
    num_images, num_candidates = labels.shape
    num_truths = truth_labels.shape[1]
    overlap = np.zeros((num_images, num_candidates, num_candidates), dtype=np.float32)
    iou = np.full((num_images, num_candidates, num_truths), -1.0)
    for b in prange(num_images):
        for i in range(num_candidates):
            if not mask[b, i]:
                continue
            x1, y1, x2, y2 = boxes[b, i, 0], boxes[b, i, 1], boxes[b, i, 2], boxes[b, i, 3]
            area = (x2 - x1) * (y2 - y1)
            for j in range(i):
                if mask[b, j] and labels[b, j] == labels[b, i]:
                    width = max(np.float32(0), min(x2, boxes[b, j, 2]) - max(x1, boxes[b, j, 0]))
                    height = max(np.float32(0), min(y2, boxes[b, j, 3]) - max(y1, boxes[b, j, 1]))
                    other = (boxes[b, j, 2] - boxes[b, j, 0]) * (boxes[b, j, 3] - boxes[b, j, 1])
                    shared = width * height
                    union = area + other - shared
                    overlap[b, i, j] = overlap[b, j, i] = shared / union if union > 0 else np.float32(0)
            own_width, own_height = np.float64(x2) - np.float64(x1), np.float64(y2) - np.float64(y1)
            for g in range(num_truths):
                if truth_labels[b, g] != labels[b, i]:
                    continue
                true_width, true_height = truth[b, g, 2] - truth[b, g, 0], truth[b, g, 3] - truth[b, g, 1]
                width = min(np.float64(x2), truth[b, g, 2]) - max(np.float64(x1), truth[b, g, 0])
                height = min(np.float64(y2), truth[b, g, 3]) - max(np.float64(y1), truth[b, g, 1])
                shared64 = width * height if width > 0 and height > 0 else 0.0
                union64 = own_width * own_height
                if not crowd[b, g]:
                    union64 += true_width * true_height - shared64
                iou[b, i, g] = shared64 / union64 if union64 > 0 else 0.0
    return overlap, iou


@compiled
def resolve(
    scores: Any,
    members: Any,
    overlap: Any,
    iou: Any,
    crowd: Any,
    nms_iou: float,
    thresholds: Any,
    survivors: Any,
    hits: Any,
    ignored: Any,
) -> int:
    """One image's candidates of one class -> how many survive NMS; who they are and what they match is written in place.

    `members` [m] are the candidates' indices; `survivors` receives the indices of those that survive, best score first;
    `hits` and `ignored` receive for each of them the thresholds, as bits, at which it is a true positive, and at which it
    lies in a crowd and does not count. A score of -inf means the candidate is not there. Ties: the lower index first.
    """
    count = 0
    for position in range(len(members)):
        i = members[position]
        if scores[i] == -np.inf:
            continue
        slot = count
        while slot > 0 and scores[survivors[slot - 1]] < scores[i]:
            survivors[slot] = survivors[slot - 1]
            slot -= 1
        survivors[slot] = i
        count += 1
    kept = 0
    for position in range(count):
        i = survivors[position]
        alive = True
        for better in range(kept):
            if overlap[survivors[better], i] > nms_iou:
                alive = False
                break
        if alive:
            survivors[kept] = i
            kept += 1
    num_truths = len(crowd)
    taken = np.zeros(num_truths, dtype=np.uint16)
    for position in range(kept):
        i = survivors[position]
        hits[position] = 0
        ignored[position] = 0
        for t in range(len(thresholds)):
            bit = np.uint16(1 << t)
            best, match = min(thresholds[t], 1 - 1e-10), -1
            for g in range(num_truths):
                if iou[i, g] < best or (taken[g] & bit and not crowd[g]):
                    continue
                if match >= 0 and crowd[g] and not crowd[match]:
                    break
                best, match = iou[i, g], g
            if match >= 0:
                taken[match] |= bit
                if crowd[match]:
                    ignored[position] |= bit
                else:
                    hits[position] |= bit
    return kept
