"""The small detector that ships with the package: its size, and what its weights already know."""

import pytest
import safetensors.torch
import torch

from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import build_detector
from rl_det.detectors.torchvision.tiny import SHIPPED_WEIGHTS, tiny
from rl_det.metrics.coco import coco_summary


def test_it_has_less_than_a_million_parameters() -> None:
    count = sum(parameter.numel() for parameter in tiny(len(CLASSES)).parameters())
    assert 500_000 < count < 1_000_000


@pytest.mark.parametrize("input_size", [64, 96])
def test_images_are_resized_to_the_size_asked_for(input_size: int) -> None:
    detector = build_detector("tiny", num_classes=2, input_size=input_size)
    encoded = detector.encode([torch.rand(3, 32, 48)])
    assert encoded.input_size.tolist() == [[input_size, 1.5 * input_size]]


def test_any_image_size_has_as_many_proposals_at_most() -> None:
    detector = build_detector("tiny", num_classes=2, input_size=64)
    assert detector.encode([torch.rand(3, 32, 48)]).mask.shape == detector.encode([torch.rand(3, 90, 40)]).mask.shape


def test_the_shipped_weights_are_a_small_file_in_half_precision() -> None:
    assert SHIPPED_WEIGHTS.is_file()
    assert SHIPPED_WEIGHTS.stat().st_size < 2_000_000
    floats = [tensor for tensor in safetensors.torch.load_file(SHIPPED_WEIGHTS).values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float16}


def test_the_shipped_weights_fit_ten_digits_and_nothing_else() -> None:
    build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    with pytest.raises(ValueError, match=rf"{SHIPPED_WEIGHTS.name}: .*the same number of classes"):
        build_detector("tiny", num_classes=3, weights=SHIPPED_WEIGHTS)


def test_the_shipped_weights_find_the_digits_of_validation_scenes() -> None:
    scenes = [*DigitScenes("val", num_scenes=60)]
    detector = build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)
    found = detector.detect([scene.image for scene in scenes])
    figures = coco_summary(found, [scene.target for scene in scenes], num_classes=len(CLASSES))
    assert figures["AP"] > 0.5
    assert figures["AP50"] > figures["AP75"] > 0.5
