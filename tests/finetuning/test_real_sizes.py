"""Detectors of real size go through the command; by choice alone, as each takes minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rl_det

ROOT = Path(__file__).parents[2]


NAMED = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("--weights", "none"),
    "ssdlite320_mobilenet_v3_large": ("--weights", "none"),
    "retinanet_resnet50_fpn": ("--weights", "none"),
    "fcos_resnet50_fpn": ("--weights", "none"),
    "rt_detr": (),
}


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
