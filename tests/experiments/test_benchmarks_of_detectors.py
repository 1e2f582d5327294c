"""The benchmarks of detectors in small: they run, and print what they promise."""

import importlib.util

import pytest
from small_runs import printed


def test_detectors_of_real_size_are_measured_at_a_small_size() -> None:
    sizes = ("--device", "cpu", "--image-size", "64", "--images", "2", "--batch-size", "2", "--updates", "1")
    result = printed("gpu.py", "--json", *sizes, "--detectors", "fasterrcnn_mobilenet_v2")
    figures = result["fasterrcnn_mobilenet_v2"]
    assert figures["image_size"] == 64
    assert figures["rl_over_supervised"] == pytest.approx(figures["rl_ms"] / figures["supervised_ms"], rel=0.01)
    assert 0 < figures["reward_share"] < 1
    assert figures["encoding_mb"] == pytest.approx(0.0126 * min(300, 500), rel=0.05)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="the onnx extra is not installed")
def test_onnxruntime_is_timed_beside_torch() -> None:
    result = printed("onnx_speed.py", "--json", "--repeats", "1")
    assert set(result) == {"tiny", "fasterrcnn_mobilenet_v3_large_320_fpn"}
    for times in result.values():
        assert times["onnxruntime_over_torch"] == pytest.approx(times["onnxruntime_ms"] / times["torch_ms"], abs=1e-3)


def test_a_pass_of_a_head_is_timed_and_its_encoding_weighed() -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    result = printed("head_pass.py", "--json", "--repeats", "1", "--detectors", name)
    assert result.keys() == {name}
    assert result[name]["head_pass_s"] > 0
    assert result[name]["encoding_MB"] == pytest.approx(100 * 256 * 49 * 2 / 1e6, abs=0.01)
