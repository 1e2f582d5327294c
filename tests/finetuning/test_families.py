"""Every family goes the whole way: from a model object through fine-tuning to a folder whose detections are the row's."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.families import EVERY, FAMILIES, IMAGES, NUM_CLASSES, build
from contract.test_detectors import assert_same_detections, without_ties
from finetuning.small import BUDGET
from torch import Tensor

import rl_det
from rl_det.data.digit_scenes import DigitScenes
from rl_det.data.splits import Splits
from rl_det.policies.build import build_policy, name_of, usual_policy
from rl_det.policies.detections import detect_images
from rl_det.types import Detections

pytestmark = pytest.mark.usefixtures("without_pages")

ROOT = Path(__file__).parents[2]
NAMED = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("--weights", "none"),
    "ssdlite320_mobilenet_v3_large": ("--weights", "none"),
    "retinanet_resnet50_fpn": ("--weights", "none"),
    "fcos_resnet50_fpn": ("--weights", "none"),
    "rt_detr": (),
}


class OfThree(torch.utils.data.Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Digit scenes of as many classes as the contract's detectors have."""

    def __init__(self, split: Any, count: int) -> None:
        self.scenes = DigitScenes(split, num_scenes=count)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        sample = self.scenes[index]
        return sample.image, {"boxes": sample.target.boxes, "labels": (sample.target.labels - 1) % NUM_CLASSES + 1}


@pytest.fixture(scope="module")
def data() -> Splits:
    return rl_det.open_data([OfThree(split, count) for split, count in (("train", 5), ("val", 4), ("test", 3))])


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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_object_is_tuned_by_reward_and_by_surrogate_and_comes_back_from_its_folder(
    family: str, data: Splits, tmp_path: Path
) -> None:
    detector = rl_det.load_detector(build(family).detector.plain(), data)
    assert detector.is_trained
    tuned = rl_det.finetune(
        detector,
        data,
        rl_det.PPO(samples_per_image=2, num_updates=1, num_candidates=20, context_candidates=20),
        rl_det.Surrogate(num_candidates=20),
        budget=BUDGET,
        out=tmp_path / "run",
    )
    assert {"warm_start", "continued_supervised", "ppo", "surrogate"} <= set(tuned.rows)
    row = tuned.rows["ppo"].tuned
    images = [data.test[index].image for index in range(3)]
    folder = row.export(tmp_path / "better")
    own = detector.architecture.library == "own"
    again = rl_det.load_tuned(folder, build(family).fresh()) if own else rl_det.load_tuned(folder)
    for ours, theirs in zip(row.detect(images), again.detect(images), strict=True):
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_warm_start_trains_a_model_of_other_classes(
    family: str, data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    two = rl_det.open_data([OfThree(split, 3) for split in ("train", "val", "test")], classes=["a", "b", "c", "d"])
    detector = rl_det.load_detector(build(family).detector.plain(), two)
    assert (detector.num_classes, detector.is_trained) == (4, False)
    result = rl_det.finetune(
        detector, two, rl_det.Labels(name="labels"), budget=BUDGET, out=tmp_path / "run", baselines=False, batch_size=2
    )
    assert result.rows["labels"].tuned.policy.detector.num_classes == 4
    assert list((tmp_path / "cache" / "warm_starts").glob("*.safetensors"))


@pytest.mark.skipif(
    not os.environ.get("RL_DET_TEST_ALL"), reason="detectors of real size: RL_DET_TEST_ALL=1, make test-all"
)
@pytest.mark.parametrize("name", NAMED)
def test_a_detector_of_real_size_is_tuned_by_the_command(name: str, tmp_path: Path) -> None:
    data = ROOT.parent / "shared" / "data" / "bccd"
    if not data.is_dir():
        pytest.skip(f"{data} is not there")
    detector = name
    if name == "rt_detr":
        transformers = pytest.importorskip("transformers")
        transformers.RTDetrConfig(num_labels=3).save_pretrained(tmp_path / name)
        detector = str(tmp_path / name)
    subprocess.run(
        [sys.executable, ROOT / "experiments" / "ppo_finetune.py", "--data", data, "--detector", detector, *NAMED[name],
         "--image-size", "224", "--budget", "smoke", "--out", tmp_path / "run"],
        check=True, env={**os.environ, "RL_DET_CACHE": str(tmp_path / "cache")}, timeout=900,
    )  # fmt: skip
    assert "ppo" in rl_det.load_results(tmp_path / "run").rows
