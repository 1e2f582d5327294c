"""Every family learns other classes than its own by a warm start."""

from pathlib import Path

import pytest
from contract.families import FAMILIES, build
from finetuning.small import BUDGET, OfThree

import rl_det

pytestmark = pytest.mark.usefixtures("without_pages")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_warm_start_trains_a_model_of_other_classes(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
