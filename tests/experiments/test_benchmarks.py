"""The benchmarks of the engine and of strategies in small: they run, and print what they promise."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import SMALL, printed, run_script, tiny

import rl_det
from rl_det.strategies.labels import CONTROL

PEERS = ("faster_coco_eval", "torchmetrics", "hotcoco", "vernier", "ultrafast_pycocotools")
MISSING = [peer for peer in PEERS if importlib.util.find_spec(peer) is None]


def test_the_torch_path_is_timed_beside_the_cpu_path() -> None:
    result = printed("ap_on_device.py", "--device", "cpu", "--images", "16", "--repeats", "1")
    assert result["different_decisions"] == 0
    assert result["max_abs_diff"] < 1e-12
    assert result["device_ms"] > 0
    assert result["cpu_path_ms"] > 0


def test_an_update_of_ppo_is_timed_in_every_environment_of_candidates() -> None:
    result = printed("agents_on_device.py", "--device", "cpu", "--images", "2", "--samples", "2", "--updates", "1")
    for policy in ("rescore", "select", "context", "adjust", "voting", "refine"):
        assert result[policy]["cpu"]["seconds"] > 0


def test_a_step_of_every_strategy_is_timed_beside_a_supervised_one() -> None:
    result = printed("strategies.py", "--json", "--images", "4", "--batches", "1", "--repeats", "1")
    names = {
        "ap",
        "smooth_ap",
        "rank_sort",
        "alrp",
        "bucketed_ap",
        "bucketed_rank_sort",
        "list_net",
        "list_mle",
        "blackbox",
        "cross_entropy",
    }
    times = result["milliseconds"]
    assert set(times) == names | {"detector", "from_start", "head", "rl"}
    assert all(spent > 0 for spent in times.values())
    for suffix, base in (("", "head"), ("_of_detector", "detector")):
        ratios = result[f"surrogate_over_supervised{suffix}"]
        assert set(ratios) == names
        assert ratios["ap"] == pytest.approx(times["ap"] / times[base], abs=1e-3)
        assert result[f"rl_over_supervised{suffix}"] == pytest.approx(times["rl"] / times[base], abs=1e-3)


@pytest.mark.skipif(bool(MISSING), reason=f"the bench extra is not installed: {', '.join(MISSING)}")
def test_the_engine_is_compared_with_every_peer() -> None:
    sizes = ("--cases", "64", "--repeats", "1", "--pool-images", "40", "--pool-edits", "10")
    result = printed("ap_engine.py", "--json", *sizes)
    assert result["cases"] == 64
    assert result["max_abs_diff"] < 1e-12
    assert result["max_abs_diff_figures"] < 1e-12
    assert list(result["per_image_us"]) == ["1", "20", "80"]
    assert (result["pool_images"], result["pool_classes"]) == (40, 80)
    for key in (
        "ratio_pycocotools_tuned", "ratio_fastest_peer", "loo_over_one_ap", "pool_what_if_us", "dataset_seconds",
        "dataset_ratio_pycocotools",
    ):  # fmt: skip
        assert result[key] > 0


@pytest.mark.skipif(bool(MISSING), reason=f"the bench extra is not installed: {', '.join(MISSING)}")
def test_environments_and_ppo_are_compared_with_sb3() -> None:
    sizes = ("--envs", "3", "--steps", "1", "--images", "3", "--samples", "2", "--updates", "1", "--repeats", "1")
    result = printed("environments.py", "--json", *sizes)
    for key in (
        "vector_over_sb3_dummy", "vector_over_sb3_dummy_image_ap", "own_ppo_over_sb3_dummy_fastest_peer",
        "own_ppo_one_sample_over_sb3_dummy_fastest_peer", "sb3_adapter_over_dummy",
    ):  # fmt: skip
        assert result[key] > 0
    assert 0 < result["reward_share"] < 1
    assert result["fastest_peer"] in result["peers_us_for_one_image"]


def test_the_first_use_is_timed() -> None:
    result = printed("first_use.py", "--inside")
    assert result["seconds"] > 0
    assert all(seconds > 0 for seconds in result["functions"].values())


def test_rows_are_measured_on_other_scenes_as_the_run_measures_them_on_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, budget = rl_det.digit_scenes(train=6, val=18, test=8), replace(SMALL, fit_evaluations=22)
    run = rl_det.finetune(tiny(data), data, rl_det.PPO(samples_per_image=2), budget=budget, out=tmp_path / "run")
    capsys.readouterr()
    for seed in ("0", "1"):
        flags = (run.folder, run.folder, "--scenes", "8", "--seed", seed, "--draws", "5")
        run_script("benchmarks/fresh_scenes.py", *flags, monkeypatch=monkeypatch)
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
        found = {name: float(ap) for name, ap, *_ in lines}
        names = {"control": CONTROL, "control, fitted": f"{CONTROL}_fitted", "PPO": "ppo", "PPO, fitted": "ppo_fitted"}
        assert list(found) == [*names, "PPO, detector.pt alone"]
        own = {name: pytest.approx(100 * run.methods[row]["AP"], abs=0.006) for name, row in names.items()}
        assert ({name: found[name] for name in names} == own) is (seed == "0"), "the run's own scenes have seed 0"


def test_costs_are_fitted_at_several_sizes() -> None:
    sizes = ("--images", "4", "8", "--detections", "10", "20", "--classes", "5", "10", "--candidates", "16", "32")
    more = ("--pool", "16", "17", "--batch", "2", "3", "--sides", "64", "96", "--repeats", "1")
    result = printed("scaling.py", "--json", *sizes, *more)
    figures = result.pop("bytes")
    assert figures["encoding"] > 0
    assert figures["relations"] > 4 * 256**2
    for costs in result.values():
        (small, first), (large, second) = ((int(size), spent) for size, spent in costs["milliseconds"].items())
        assert costs["slope"] == pytest.approx(math.log(second / first) / math.log(large / small), abs=0.1)
