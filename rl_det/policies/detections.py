"""Compute a policy's detections and mAP from cached encodings, without the frozen part of the detector.

If the whole detector is trained, nothing is cached; then detections are computed from images.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from rl_det.ap.data_set import mean_ap
from rl_det.ap.matching import match
from rl_det.ap.padding import pad_targets
from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of, ranked
from rl_det.data import Dataset
from rl_det.detectors.encodings import Encodings, check_finite, spoken
from rl_det.policies.policy import Policy, apply_policy
from rl_det.storage.memory import give_back
from rl_det.storage.weights import state_fingerprint
from rl_det.types import Candidates, Detections, Encoded, HeadOutput, Target

IMAGE_BATCH = 16
"""The images of one pass of the frozen part."""


def candidates_of(policy: Policy, data: Encodings, num_candidates: int, *, batch_size: int | None = None) -> Candidates:
    """Every image's N best candidates under the policy's logits, on the host.

    Raises NotFiniteError, which names the images, if a box or a logit is NaN or infinite.
    """
    found = joined(
        apply_policy(policy, encoded, num_candidates, output).to("cpu")
        for encoded, output in spoken(data, policy.detector, batch_size or data.batch_size)
    )
    check_finite(found, found.mask, data, range(len(data)))
    return found


def joined(parts: Iterable[Candidates]) -> Candidates:
    """The candidates of several batches as one."""
    every = list(parts)
    return Candidates(**{f.name: torch.cat([getattr(part, f.name) for part in every]) for f in fields(Candidates)})


def policy_ap(policy: Policy, data: Encodings, num_candidates: int) -> float:
    """COCO's AP of the policy's detections after its own NMS, in [0, 1]."""
    candidates = candidates_of(policy, data, num_candidates)
    return candidates_ap(candidates, policy.postprocessing, data.targets, num_classes=policy.detector.num_classes)


def candidates_ap(
    candidates: Candidates, how: PostProcessingSettings, targets: Sequence[Target], *, num_classes: int
) -> float:
    """COCO's AP, in [0, 1], of the detections that this post-processing makes of the candidates; NaN without true boxes."""
    found = mean_ap(match(ranked(candidates, how), pad_targets(targets), num_classes=num_classes))
    give_back()
    return found


def detections(
    policy: Policy, encoded: Encoded, num_candidates: int, output: HeadOutput | None = None
) -> list[Detections]:
    """The tuned detector's detections for encoded images, from each image's N best candidates."""
    return detections_of(apply_policy(policy, encoded, num_candidates, output), policy.postprocessing)


def detect_encoded(policy: Policy, data: Encodings, num_candidates: int) -> list[Detections]:
    """The tuned detector's detections for cached encodings."""
    return [
        found
        for encoded, output in spoken(data, policy.detector, data.batch_size)
        for found in detections(policy, encoded, num_candidates, output)
    ]


def detect_images(
    policies: Sequence[Policy], images: Iterable[Float[Tensor, "3 _ _"]], num_candidates: int
) -> Iterator[list[list[Detections]]]:
    """Each policy's detections for these images, batch after batch; the shared frozen part runs once, in full precision.

    A head that several policies share runs once, too, and so does a policy that several rows share but for post-processing.

    Batches have a fixed size, so the same images in the same order give the same detections, bit for bit.
    """
    remaining = iter(images)
    heads = [state_fingerprint(policy.detector.trainable) for policy in policies]
    alike = [(type(policy), state_fingerprint(policy.trainable)) for policy in policies]
    while batch := list(islice(remaining, IMAGE_BATCH)):
        encoded = policies[0].detector.encode(batch)
        said, ranked_by = dict[str, HeadOutput](), dict[tuple[type[Policy], str], Candidates]()
        for head, own, policy in zip(heads, alike, policies, strict=True):
            if head not in said:
                with torch.no_grad():
                    said[head] = policy.detector.head(encoded)
            if own not in ranked_by:
                ranked_by[own] = apply_policy(policy, encoded, num_candidates, said[head])
        yield [
            detections_of(ranked_by[own], policy.postprocessing) for own, policy in zip(alike, policies, strict=True)
        ]


def detect_dataset(policy: Policy, dataset: Dataset, num_candidates: int) -> tuple[list[Detections], list[Target]]:
    """The tuned detector's detections for every image of a data set, and the targets, both on the host."""
    targets: list[Target] = []

    def images() -> Iterator[Tensor]:
        for index in range(len(dataset)):
            sample = dataset[index]
            targets.append(sample.target)
            yield sample.image

    found = [on_host(each) for (batch,) in detect_images([policy], images(), num_candidates) for each in batch]
    return found, targets


def on_host(found: Detections) -> Detections:
    """One image's detections on the CPU."""
    return Detections(boxes=found["boxes"].cpu(), labels=found["labels"].cpu(), scores=found["scores"].cpu())
