"""The policy that a family's detectors have by default begins at what their own library detects."""

from dataclasses import replace

import pytest
from contract.families import EVERY, FAMILIES, IMAGES, build
from contract.test_detectors import assert_same_detections, without_ties

from rl_det.policies.build import build_policy, name_of, usual_policy
from rl_det.policies.detections import detect_images
from rl_det.types import Detections


@pytest.mark.parametrize("family", FAMILIES)
def test_the_usual_policy_begins_at_the_librarys_own_detections(family: str) -> None:
    detector = build(family).detector
    policy = build_policy(None, detector)
    policy.postprocessing = replace(policy.postprocessing, max_detections=EVERY)
    assert name_of(policy) == ("voting" if detector.overlapping_proposals else "adjust") == usual_policy(detector)
    for image in IMAGES:
        with without_ties(detector):
            ((found,),) = next(detect_images([policy], [image], EVERY))
            (own,) = detector.detect([image])
        real = ((own["boxes"][:, 2:] - own["boxes"][:, :2]) >= 1e-2).all(1)
        own = Detections(boxes=own["boxes"][real], labels=own["labels"][real], scores=own["scores"][real])
        if detector.overlapping_proposals:  # without NMS, the library lists a query's best class, or the best pairs
            assert_same_detections(found, own)
