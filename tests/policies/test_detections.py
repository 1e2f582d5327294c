"""A policy judged on cached encodings: as the library model itself detects, and as pycocotools counts."""

import numpy as np
import pytest
import torch

from rl_det.candidates.postprocessing import PostProcessingSettings, detections_of
from rl_det.candidates.voted_ap import VotedAp
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import encode_dataset
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS
from rl_det.metrics.coco import coco_summary
from rl_det.policies.context import ContextPolicy
from rl_det.policies.detections import (
    candidates_ap,
    candidates_of,
    detect_dataset,
    detect_encoded,
    detect_images,
    detections,
    policy_ap,
)
from rl_det.policies.policy import Policy
from rl_det.policies.rescore import RescorePolicy
from rl_det.types import Candidates, Detections

SCENES = DigitScenes("val", num_scenes=12)
ALL_PAIRS = 1000


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)


@pytest.fixture(scope="module", params=["rescore", "context"])
def policy(request: pytest.FixtureRequest, detector: Detector) -> Policy:
    if request.param == "rescore":
        return RescorePolicy(detector, sigma=0.5)
    return ContextPolicy(detector, sigma=0.5)


def test_on_all_pairs_it_detects_what_the_plain_model_detects(policy: Policy, detector: Detector) -> None:
    images = [SCENES[index].image for index in range(4)]
    ours = detections(policy, detector.encode(images), ALL_PAIRS)
    theirs: list[Detections] = detector.plain()(images)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found["boxes"], expected["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-5, rtol=0)
        assert torch.equal(found["labels"], expected["labels"])


@pytest.mark.parametrize(
    "how",
    [
        PostProcessingSettings(nms_iou=0.3),
        PostProcessingSettings(nms_iou=0.5),
        PostProcessingSettings.soft(1.0, 2.0),
        PostProcessingSettings.soft(0.7, 0.5),
        PostProcessingSettings(nms_iou=0.5, max_detections=6),
        PostProcessingSettings(
            nms_iou=0.5, max_detections=6, scale=(1.0,) * 10, shift=tuple(np.linspace(-2.0, 2.0, 10))
        ),
        PostProcessingSettings(nms_iou=0.7, sigma=2.0, max_detections=6),
    ],
)
def test_its_map_is_that_of_its_detections(policy: Policy, detector: Detector, how: PostProcessingSettings) -> None:
    data = encode_dataset(detector, SCENES)
    policy = policy.copy()
    policy.postprocessing = how
    found = detections(policy, data.encoded.to("cpu", torch.float32), 64)
    expected = coco_summary(found, data.targets, num_classes=len(CLASSES))["AP"]
    assert policy_ap(policy, data, 64) == pytest.approx(expected, abs=1e-9)
    assert 0.3 < expected < 0.9


def test_boxes_without_area_are_no_detections_for_the_map_either(policy: Policy, detector: Detector) -> None:
    data = encode_dataset(detector, SCENES)
    kept = candidates_of(policy, data, 64)
    beside = torch.zeros(len(kept), 1, 4)
    beside[..., 2] = 9.0
    with_lines = Candidates(
        boxes=torch.cat([beside, kept.boxes], 1),
        labels=torch.cat([kept.labels[:, :1], kept.labels], 1),
        logits=torch.cat([kept.logits[:, :1] + 1, kept.logits], 1),
        mask=torch.cat([kept.mask[:, :1], kept.mask], 1),
        index=torch.cat([kept.index[:, :1], kept.index], 1),
    )
    for how in (PostProcessingSettings(nms_iou=0.5), PostProcessingSettings.soft(0.7, 0.5)):
        expected = candidates_ap(kept, how, data.targets, num_classes=len(CLASSES))
        assert candidates_ap(with_lines, how, data.targets, num_classes=len(CLASSES)) == expected
        assert VotedAp(with_lines, data.targets, num_classes=len(CLASSES))(how) == pytest.approx(expected, abs=1e-12)
        for some, others in zip(detections_of(with_lines, how), detections_of(kept, how), strict=True):
            assert torch.equal(some["boxes"], others["boxes"])


def test_a_data_set_is_detected_in_as_its_encodings_are(policy: Policy, detector: Detector) -> None:
    found, targets = detect_dataset(policy, SCENES, 64)
    cached = detect_encoded(policy, encode_dataset(detector, SCENES), 64)
    assert [target.image_id for target in targets] == [SCENES[index].target.image_id for index in range(len(SCENES))]
    assert len(found) == len(cached) == len(SCENES)
    for ours, theirs in zip(found, cached, strict=True):
        torch.testing.assert_close(ours["scores"][:20], theirs["scores"][:20], atol=0.02, rtol=0)  # cached by halves


def test_policies_that_share_the_frozen_part_detect_by_one_pass_of_it(policy: Policy, detector: Detector) -> None:
    passes: list[None] = []
    images = [SCENES[index].image for index in range(3)]
    with detector.plain().backbone.register_forward_hook(lambda *_: passes.append(None)):  # type: ignore[operator, union-attr]
        (batch,) = detect_images([policy, policy.copy()], images, 32)
    assert len(passes) == 1
    for ours, theirs in zip(*batch, strict=True):
        assert torch.equal(ours["boxes"], theirs["boxes"])
        assert torch.equal(ours["scores"], theirs["scores"])
