"""A policy that leaves as ONNX detects in onnxruntime what it detects here: torchvision's families, every post-processing."""

import json
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnx
import torch
from contract.families import IMAGES, MOBILENET, build
from policies.onnx_runs import assert_same, detected, lively, session, smooth, write
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.candidates.votes import Votes
from rl_det.detectors import Detector
from rl_det.detectors.loading import of_model
from rl_det.errors import UserError
from rl_det.policies import onnx as writing
from rl_det.policies.build import PolicyName

SIZES = [*IMAGES, smooth(200, 136), smooth(333, 217), smooth(480, 640)]
"""Of several sizes, none of which is the traced one but the last."""
VOTED = Votes(step=0.7, step_slope=0.1, mean_share=0.4, support=0.3, spread=-0.5, size=0.2, small=0.1, large=-0.2)
PER_CLASS = {"scale": (0.9, 1.1, 0.7), "shift": (0.1, -0.2, 0.0)}
CASES: list[tuple[str, PolicyName]] = [
    ("tiny", "voting"), (MOBILENET, "voting"), ("retinanet", "refine"), ("fcos", "context"), ("ssd", "voting"),
    ("ssdlite", "rescore"),
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> Detector:
    return build("tiny").detector


@pytest.mark.parametrize(("family", "name"), CASES)
def test_onnxruntime_detects_what_the_policy_detects_in_images_of_every_size(
    family: str, name: PolicyName, tmp_path: Path
) -> None:
    policy = lively(name, build(family).detector)
    assert assert_same(session(policy, tmp_path / "a.onnx"), policy, SIZES) > 100


@pytest.mark.parametrize(
    "how",
    [
        PostProcessingSettings(nms_iou=0.6, votes=VOTED, **PER_CLASS),
        PostProcessingSettings(nms_iou=0.7, sigma=0.3, max_detections=30, votes=VOTED, **PER_CLASS),
        PostProcessingSettings(nms_iou=1.0, sigma=0.5, max_detections=70),
    ],
)
def test_votes_soft_nms_and_recalibration_are_in_the_file(
    tiny: Detector, how: PostProcessingSettings, tmp_path: Path
) -> None:
    policy = lively("adjust", tiny)
    plain = session(policy, tmp_path / "plain.onnx")
    policy.postprocessing = how
    run = session(policy, tmp_path / "a.onnx")
    assert assert_same(run, policy, IMAGES) > 60
    assert not torch.equal(detected(run, IMAGES[0])["scores"], detected(plain, IMAGES[0])["scores"])


def test_an_image_without_detections_gives_empty_outputs(tmp_path: Path) -> None:
    detector = build("tiny").detector
    detector.plain().rpn.score_thresh = 2.0  # no proposal is that good
    policy = lively("voting", detector)
    run = session(policy, tmp_path / "a.onnx")
    assert assert_same(run, policy, IMAGES) == 0
    found = detected(run, IMAGES[0])
    assert (found["boxes"].shape, found["labels"].shape, found["scores"].shape) == ((0, 4), (0,), (0,))
    assert found["labels"].dtype == torch.int64


def test_a_file_for_one_size_takes_that_size_alone(tiny: Detector, tmp_path: Path) -> None:
    policy = lively("rescore", tiny)
    run = session(policy, tmp_path / "a.onnx", image_size=(40, 96))
    assert run.get_inputs()[0].shape == [3, 40, 96]
    assert_same(run, policy, [IMAGES[1], smooth(40, 96, 1)])
    with pytest.raises(Exception, match="invalid dimensions"):
        detected(run, IMAGES[0])


def test_the_metadata_are_json_and_the_policy_is_as_it_was(tiny: Detector, tmp_path: Path) -> None:
    policy = lively("voting", tiny)
    before = {name: value.clone() for name, value in policy.trainable.state_dict().items()}
    policy.module.train()
    write(policy, tmp_path / "a.onnx", about={"classes": ("straße", "b"), "strategy": ""})
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {
        "classes": ["straße", "b"],
        "strategy": "",
    }
    assert [each.name for each in model.graph.output] == ["boxes", "labels", "scores"]
    assert policy.module.training
    assert all(torch.equal(before[name], value) for name, value in policy.trainable.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == ["a.onnx"]


def test_without_the_library_one_sentence_names_the_extra(
    tiny: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rl_det\[onnx\]'"):
        write(lively("rescore", tiny), tmp_path / "a.onnx")


@pytest.mark.parametrize("size", [(0, 64), (64, -1)])
def test_a_size_that_cannot_be_is_refused(tiny: Detector, tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="image_size must be a height and a width"):
        write(lively("rescore", tiny), tmp_path / "a.onnx", image_size=size)


class Spectral(nn.Module):
    """A backbone with an operator that ONNX lacks."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images) + torch.linalg.matrix_exp(images.new_zeros(2, 2)).sum()


def test_a_layer_that_onnx_lacks_is_named_in_one_sentence(tmp_path: Path) -> None:
    detector = of_model(
        FasterRCNN(Spectral(), num_classes=3, min_size=64, rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)))
    )
    with pytest.raises(UserError, match=r"torch must be able to write the detector as ONNX, and cannot: .*matrix_exp"):
        write(lively("rescore", detector), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_detector_of_another_kind_is_refused(tiny: Detector, tmp_path: Path) -> None:
    policy = lively("rescore", tiny)

    class Untraceable:
        """A Detector as far as this is asked."""

    policy.detector = Untraceable()  # type: ignore[assignment]
    with pytest.raises(UserError, match="only a detector that can be traced leaves as ONNX; a Untraceable cannot"):
        write(policy, tmp_path / "a.onnx")
