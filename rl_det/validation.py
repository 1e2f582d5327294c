"""A policy and cached encodings -> its detections and its mAP, without running the frozen part of the detector again."""

from dataclasses import fields

import numpy as np
import torch

from rl_det.candidates import postprocess
from rl_det.detectors.cache import EncodedDataset
from rl_det.memory import give_back
from rl_det.metrics.candidate_pool import CandidatePool
from rl_det.metrics.padding import candidate_relations
from rl_det.policies.policy import Policy, rescored
from rl_det.types import Candidates, Detections, Encoded


def candidates_of(policy: Policy, data: EncodedDataset, num_candidates: int, *, batch_size: int = 50) -> Candidates:
    """Every image's N best candidates under the policy's logits, on the host."""
    device = policy.parameters()[0].device
    parts = [
        rescored(policy, data.batch(images, device), num_candidates).to("cpu")
        for images in torch.arange(len(data)).split(batch_size)
    ]
    return Candidates(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Candidates)})


def mean_ap(policy: Policy, data: EncodedDataset, num_candidates: int, *, nms_iou: float) -> float:
    """COCO's AP of the policy's detections, in [0, 1]; exact, and fast enough to be asked between updates."""
    candidates = candidates_of(policy, data, num_candidates)
    related = candidate_relations(candidates, data.targets, num_classes=policy.detector.num_classes)
    scores = candidates.logits.double().numpy()
    found = CandidatePool(related, np.ascontiguousarray(scores), nms_iou=nms_iou).mean_ap
    give_back()
    return found


def detections(
    policy: Policy, encoded: Encoded, num_candidates: int, *, nms_iou: float, max_detections: int = 100
) -> list[Detections]:
    """What the tuned detector gives for encoded images."""
    return postprocess(rescored(policy, encoded, num_candidates), nms_iou=nms_iou, max_detections=max_detections)
