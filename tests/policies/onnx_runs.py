"""Write a policy as ONNX, and compare what onnxruntime detects with what the policy does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn
from unchecked import unchecked

from rl_det.detectors import Detector
from rl_det.policies.build import PolicyName, build_policy
from rl_det.policies.detections import detect_images
from rl_det.policies.onnx import export_onnx
from rl_det.policies.policy import Policy
from rl_det.types import Detections

NUM_CANDIDATES = 300
"""Nearly all pairs: where weights are random, several proposals often have one logit, and either may be left out."""


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    """An image whose neighbouring pixels are alike, as a photograph's are."""
    coarse = torch.rand(1, 3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]


def lively(name: PolicyName, detector: Detector) -> Policy:
    """The policy with a module that says something."""
    policy = build_policy(name, detector)
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.module.parameters() if hasattr(policy, "module") else ():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return policy


def write(policy: Policy, file: Path, **options: Any) -> None:
    """Write the file; a traced size is a tensor, which is no int to the checks of types that tests add."""
    with unchecked():
        export_onnx(policy, file, NUM_CANDIDATES, **({"about": {}} | options))


def session(policy: Policy, file: Path, **options: Any) -> onnxruntime.InferenceSession:
    """The policy's file, ready to run."""
    write(policy, file, **options)
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def detected(run: onnxruntime.InferenceSession, image: Tensor) -> Detections:
    """What onnxruntime detects."""
    boxes, labels, scores = map(torch.from_numpy, run.run(None, {"image": image.numpy()}))
    return Detections(boxes=boxes, labels=labels, scores=scores)


def assert_same(
    run: onnxruntime.InferenceSession,
    policy: Policy,
    images: Sequence[Tensor],
    *,
    boxes: float = 1e-4,
    scores: float = 5e-5,
) -> int:
    """The same detections of each image, in the same order; returns how many there are in all.

    `boxes`, as a share of the longer side, and `scores` may differ by this much: processors round differently.
    """
    count = 0
    for image in images:
        ((wanted,),) = next(detect_images([policy], [image], NUM_CANDIDATES))
        found = detected(run, image)
        assert found["labels"].tolist() == wanted["labels"].tolist()
        longer = max(image.shape)
        torch.testing.assert_close(found["boxes"] / longer, wanted["boxes"] / longer, rtol=0, atol=boxes)
        torch.testing.assert_close(found["scores"], wanted["scores"], rtol=0, atol=scores)
        count += len(found["scores"])
    return count
