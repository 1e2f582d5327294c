"""A policy judged on cached encodings: as the library model itself detects, and as pycocotools counts."""

import pytest
import torch

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.metrics.coco import coco_summary
from rl_det.policies.context import ContextPolicy
from rl_det.policies.context_module import ContextModule
from rl_det.policies.detections import detections, mean_ap
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.types import Detections

SCENES = DigitScenes("val", num_scenes=12)
ALL_PAIRS = 1000


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)


@pytest.fixture(scope="module", params=["rescore", "context"])
def policy(request: pytest.FixtureRequest, detector: Detector) -> Policy:
    if request.param == "rescore":
        return RescorePolicy(detector, sigma=0.5)
    module = ContextModule(num_classes=len(CLASSES), embedding_size=detector.embedding_size)
    return ContextPolicy(detector, module, sigma=0.5)


def test_on_all_pairs_it_detects_what_the_plain_model_detects(policy: Policy, detector: Detector) -> None:
    images = [SCENES[index].image for index in range(4)]
    ours = detections(policy, detector.encode(images), ALL_PAIRS, nms_iou=detector.nms_iou)
    theirs: list[Detections] = detector.plain()(images)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found["boxes"], expected["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-5, rtol=0)
        assert torch.equal(found["labels"], expected["labels"])


def test_its_map_is_that_of_its_detections(policy: Policy, detector: Detector) -> None:
    data = encode_dataset(detector, SCENES)
    found = detections(policy, data.encoded.to("cpu", torch.float32), 64, nms_iou=0.5)
    expected = coco_summary(found, data.targets, num_classes=len(CLASSES))["AP"]
    assert mean_ap(policy, data, 64, nms_iou=0.5) == pytest.approx(expected, abs=1e-9)
    assert 0.3 < expected < 0.9
