"""A user's own methods and hooks that an adapter does not run are named when the model is loaded."""

from typing import Any

import pytest
from contract.families import FAMILIES, build
from finetuning.small import own_model
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import rl_det
from rl_det.detectors.bypassed import bypassed


class Darker(FasterRCNN):
    def forward(self, images: Any, targets: Any = None) -> Any:
        return super().forward([image * 0.2 for image in images], targets)


class OwnHeads(RoIHeads):
    def postprocess_detections(self, *arguments: Any) -> Any:
        return super().postprocess_detections(*arguments)


class OwnTransform(GeneralizedRCNNTransform):
    def normalize(self, image: Tensor) -> Tensor:
        return image

    def postprocess(self, *arguments: Any) -> Any:
        return super().postprocess(*arguments)


def darker(model: FasterRCNN) -> None:
    model.__class__ = Darker


def of_the_object(model: FasterRCNN) -> None:
    model.forward = model.forward  # type: ignore[method-assign]


def hooked(model: FasterRCNN) -> None:
    model.register_forward_pre_hook(lambda *_: None)


def own_heads(model: FasterRCNN) -> None:
    model.roi_heads.__class__ = OwnHeads


def hooked_heads(model: FasterRCNN) -> None:
    model.roi_heads.register_forward_hook(lambda *_: None)


def own_transform(model: FasterRCNN) -> None:
    model.transform.__class__ = OwnTransform


CHANGES = {
    "Darker.forward": darker,
    "FasterRCNN.forward": of_the_object,
    "FasterRCNN.hooks": hooked,
    "roi_heads.postprocess_detections": own_heads,
    "roi_heads.hooks": hooked_heads,
    "transform.postprocess": own_transform,
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_run_is_named_when_the_model_is_loaded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = rl_det.digit_scenes(2, 2, 2), own_model()
    rl_det.load_detector(model, data)
    assert "do not run" not in capsys.readouterr().err
    CHANGES[name](model)
    rl_det.load_detector(model, data)
    assert f"warning: {name} of this model do not run" in capsys.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
def test_the_libraries_own_models_have_nothing_that_does_not_run(family: str) -> None:
    assert bypassed(build(family).detector.plain()) == []
