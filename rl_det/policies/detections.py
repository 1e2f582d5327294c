"""A policy and cached encodings -> its detections and its mAP, without running the frozen part of the detector again.

Where all of the detector is trained, nothing is cached: then a detector and images -> its detections.
"""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch

from rl_det.ap.candidate_pool import CandidatePool
from rl_det.ap.padding import candidate_relations
from rl_det.candidates import nms
from rl_det.data import Dataset
from rl_det.detectors.encodings import EncodedDataset
from rl_det.detectors.protocol import Detector
from rl_det.policies.policy import Policy, apply_policy
from rl_det.storage.memory import give_back
from rl_det.types import Candidates, Detections, Encoded, Target


def candidates_of(policy: Policy, data: EncodedDataset, num_candidates: int, *, batch_size: int = 50) -> Candidates:
    """Every image's N best candidates under the policy's logits, on the host."""
    device = policy.parameters()[0].device
    parts = [
        apply_policy(policy, data.batch(images, device), num_candidates).to("cpu")
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
    return nms(apply_policy(policy, encoded, num_candidates), nms_iou=nms_iou, max_detections=max_detections)


def detect_dataset(
    detector: Detector,
    dataset: Dataset,
    num_candidates: int,
    *,
    max_detections: int = 100,
    batch_size: int = 16,
    on_batch: Callable[[int], None] = lambda num_images: None,
) -> tuple[list[Detections], list[Target]]:
    """What the detector gives for every image, of its N best candidates, and what is truly there, both on the host."""
    found: list[Detections] = []
    targets: list[Target] = []
    for start in range(0, len(dataset), batch_size):
        samples = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
        candidates = detector.propose(detector.encode([sample.image for sample in samples]), num_candidates)
        found += nms(candidates.to("cpu"), nms_iou=detector.nms_iou, max_detections=max_detections)
        targets += [sample.target for sample in samples]
        on_batch(len(samples))
    return found, targets
