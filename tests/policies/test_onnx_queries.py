"""Transformers' query detectors that leave as ONNX detect in onnxruntime what they detect here."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("transformers", reason="needs the extra transformers")

from contract.families import IMAGES, NUM_CLASSES
from contract.query_families import OPTIONS, lively_query_detector
from policies.onnx_runs import assert_same, lively, session, smooth, write

from rl_det.candidates.postprocessing import PostProcessingSettings
from rl_det.errors import UserError

SQUARE = {"rt_detr": 0, "rt_detr_v2": 4, "d_fine": 5}
"""All images become squares of one size. The seeds are of models whose scores lie further apart (5.8e-5 at least) than
rounding moves them (1.2e-5 at most), so that it does not change their order."""
OTHERS = tuple(family for family in OPTIONS if family not in SQUARE)
SIZE = (96, 128)
ROUNDING = {"boxes": 5e-4, "scores": 1e-4}
"""The small models' random attention is sharp, and enlarges rounding."""


@pytest.fixture(autouse=True)
def seed() -> None:
    """The models' weights do not depend on the tests before."""
    torch.manual_seed(0)


@pytest.mark.parametrize("family", SQUARE)
def test_a_family_of_squares_takes_images_of_every_size(family: str, tmp_path: Path) -> None:
    torch.manual_seed(SQUARE[family])
    policy = lively("adjust", lively_query_detector(family, NUM_CLASSES, IMAGES))
    assert assert_same(session(policy, tmp_path / "a.onnx"), policy, [*IMAGES, smooth(333, 217)], **ROUNDING) > 100


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_take_images_of_one_size(family: str, tmp_path: Path) -> None:
    policy = lively("adjust", lively_query_detector(family, NUM_CLASSES, IMAGES))
    run = session(policy, tmp_path / "a.onnx", image_size=SIZE)
    assert assert_same(run, policy, [smooth(*SIZE, seed) for seed in range(3)], **ROUNDING) > 100


def test_a_context_module_and_soft_nms_leave_too(tmp_path: Path) -> None:
    policy = lively("context", lively_query_detector("rt_detr", NUM_CLASSES, IMAGES))
    policy.postprocessing = PostProcessingSettings(nms_iou=0.8, sigma=0.5, max_detections=20)
    run = session(policy, tmp_path / "a.onnx")
    assert assert_same(run, policy, IMAGES, **ROUNDING) == 20 * len(IMAGES)


@pytest.mark.parametrize("family", ["detr", "deformable_detr"])
def test_a_family_that_needs_a_size_asks_for_it(family: str, tmp_path: Path) -> None:
    policy = lively("adjust", lively_query_detector(family, NUM_CLASSES, IMAGES))
    with pytest.raises(
        UserError, match=r"for images of one size only; give their height and width \(--image-size H W\)"
    ):
        write(policy, tmp_path / "a.onnx")
