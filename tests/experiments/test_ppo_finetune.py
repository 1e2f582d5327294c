"""PPO as its script runs it: what it writes, that it repeats itself, and that a mistake costs one line and nothing else."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_runs import EXPERIMENTS, SMALL, Refusals, files, lines, results, run_script, small_data, tiny

import rl_det
from rl_det.finetuning import request, warm_start
from rl_det.storage.weights import save_state
from rl_det.strategies.hand_set import WarmStart

SCRIPT = "ppo_finetune.py"
PPO = rl_det.PPO(policy="rescore", samples_per_image=2)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refusals:
    return Refusals(SCRIPT, capsys, monkeypatch)


def tuned(data: Any, *strategies: Any, **options: Any) -> rl_det.Results:
    """Without the baselines."""
    splits = rl_det.open_data(data)
    return rl_det.finetune(tiny(splits), splits, *strategies, budget=SMALL, baselines=False, **options)


def test_a_run_leaves_its_whole_folder_and_says_what_each_method_gave(tmp_path: Path) -> None:
    data, folder = small_data(), tmp_path / "run"
    found = rl_det.finetune(tiny(data), data, replace(PPO, policy="voting"), budget=SMALL, out=folder)
    voted = ["warm_start_voted", "continued_supervised_voted"]
    told = results(folder)
    assert list(told["methods"]) == ["warm_start", "continued_supervised", *voted, "ppo"]
    assert set(told["seconds"]) == set(told["methods"])
    assert {"seed", "data", "detector", "device"} <= set(told)
    for figures in told["methods"].values():
        assert {"AP", "AP50", "AP75", "F1", "calibration_error", "calibration_error_before"} <= set(figures)
        assert 0 < figures["AP"] < figures["AP50"] <= 1
    written = files(folder)
    assert {"config.json", "metrics.jsonl", "checkpoints/ppo.pt", "ppo/detector.pt", "ppo/model.json"} <= written
    assert {"ppo/voting.pt2", "ppo/module.safetensors", "continued_supervised/detector.pt"} <= written
    assert "ppo/context.pt2" not in written
    assert any(file.startswith("tensorboard/") for file in written)
    curves = {f"{name}_test_{part}" for name in told["methods"] for part in ("AP", "precision_50", "precision")}
    assert {line["stage"] for line in lines(folder)} == {"continued_supervised", "ppo"} | curves
    assert any("val_AP" in line for line in lines(folder))
    assert "continued_supervised" in found.table()


def test_a_small_data_set_is_not_gone_through_for_ever() -> None:
    budget = rl_det.Budget()
    assert budget.updates(100_000) == budget.num_updates
    few = budget.updates(90)
    per_update = budget.epochs_per_update * budget.images_per_update
    assert few * per_update >= 90 * budget.max_passes > (few - 1) * per_update


@pytest.mark.parametrize("policy", ["select", "context", "adjust"])
def test_the_other_policies_run_and_the_other_reward(tmp_path: Path, policy: str) -> None:
    found = tuned(small_data(), replace(PPO, policy=policy, reward="image_ap"), out=tmp_path / "run")
    (settings,) = found.facts["strategies"]
    assert (settings["policy"], settings["reward"]) == (policy, "image_ap")
    assert found.methods["ppo"]["AP"] > 0.3
    assert (tmp_path / "run" / "ppo" / "context.pt2").exists() == (policy == "context")


def test_the_same_seed_gives_the_same_methods_bit_for_bit_and_another_seed_does_not(tmp_path: Path) -> None:
    data = small_data()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tuned(data, WarmStart(), PPO, out=tmp_path / name, seed=seed)
    first, second, other = (results(tmp_path / name)["methods"] for name in "abc")
    assert first == second
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in "abc"]
    assert logs[0] == logs[1] != logs[2]
    assert first["warm_start"] == other["warm_start"]


def test_a_coco_folder_is_warm_started_once_and_found_in_the_cache(
    tmp_path: Path, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(folder, WarmStart(), out=tmp_path / "a")
    assert len(list(cache.rglob("*.safetensors"))) == 1
    assert not list(cache.rglob("*.pt"))

    def never(*_: Any) -> None:
        raise AssertionError("the second run trained a warm start again")

    monkeypatch.setattr(warm_start, "_train", never)
    tuned(folder, WarmStart(), out=tmp_path / "b")
    first, second = (results(tmp_path / name) for name in "ab")
    assert first["methods"] == second["methods"]
    assert first["data"] == folder.name


def test_weights_none_trains_afresh(tmp_path: Path, folder: Path, cache: Path) -> None:
    data = rl_det.open_data(folder)
    detector = tiny(data, weights="none")
    assert not detector.is_trained
    rl_det.finetune(detector, data, WarmStart(), budget=SMALL, baselines=False, out=tmp_path / "run")
    assert results(tmp_path / "run")["methods"]["warm_start"]["AP"] < 0.1
    assert len(list(cache.rglob("*.safetensors"))) == 1


def test_the_script_runs_with_a_flag_for_every_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(request.NUM_SCENES, "smoke", {"train": 12, "val": 8, "test": 8})
    flags = ("--budget", "smoke", "--device", "cpu", "--policy", "rescore", "--reward", "image_ap", "--seed", 1)
    own = ("--ppo.num-updates", 1, "--ppo.samples-per-image", 2)
    run_script(SCRIPT, *flags, *own, "--out", tmp_path / "run", monkeypatch=monkeypatch)
    told = results(tmp_path / "run")
    (settings,) = told["strategies"]
    assert (settings["policy"], settings["reward"], settings["num_updates"]) == ("rescore", "image_ap", 1)
    assert list(told["methods"]) == ["warm_start", "continued_supervised", "ppo"]
    assert "continued_supervised" in capsys.readouterr().out


def test_a_user_sees_one_line_and_exit_code_2_and_finds_nothing_half_written(tmp_path: Path) -> None:
    script = str(EXPERIMENTS / SCRIPT)
    command = [sys.executable, script, "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not (tmp_path / "run").exists()


def edited(folder: Path, split: str, edit: Callable[[dict[str, Any]], object]) -> None:
    file = folder / f"{split}.json"
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def drop_category(document: dict[str, Any]) -> None:
    document["categories"].pop()


def same_id_twice(document: dict[str, Any]) -> None:
    document["images"][1]["id"] = document["images"][0]["id"]


def empty(document: dict[str, Any]) -> None:
    document["images"], document["annotations"] = [], []


def box(*sides: float) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][5]["bbox"] = list(sides)

    return change


@pytest.mark.parametrize(
    ("split", "edit", "entry"),
    [
        ("train", drop_category, "annotation"),
        ("val", box(float("nan"), 1, 5, 5), "annotation 5"),
        ("train", box(1, 1, -5, 5), "annotation 5"),
        ("train", same_id_twice, "image 0"),
        ("val", empty, "images"),
    ],
)
def test_a_broken_annotation_file_is_named_with_its_entry(
    tmp_path: Path, folder: Path, refused: Refusals, split: str, edit: Any, entry: str
) -> None:
    edited(folder, split, edit)
    line = refused("--data", folder, "--out", tmp_path / "run")
    assert str(folder / f"{split}.json") in line
    assert entry in line
    assert not (tmp_path / "run").exists()


def test_what_is_not_json_is_named(tmp_path: Path, folder: Path, refused: Refusals) -> None:
    (folder / "val.json").write_text("boxes, please")
    assert str(folder / "val.json") in refused("--data", folder, "--out", tmp_path / "run")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("broken", ["missing", "truncated"])
def test_an_image_that_cannot_be_read_is_named(
    tmp_path: Path, folder: Path, refused: Refusals, split: str, broken: str
) -> None:
    file = folder / "images" / f"{split}1.png"
    if broken == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:3000])
        with Image.open(file) as image:
            assert image.size == (128, 128)  # the header is whole
    line = refused("--data", folder, "--budget", "smoke", "--device", "cpu", "--out", tmp_path / "run")
    assert str(file) in line
    assert not (tmp_path / "run").exists()


def test_weights_of_another_architecture_are_refused(tmp_path: Path, refused: Refusals) -> None:
    file = tmp_path / "ours.pt"
    save_state(torch.nn.Linear(2, 2), file)
    assert str(file) in refused("--weights", file, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("rl_det.data.digit_scenes.DigitScenes.__getitem__", never)


def test_an_unknown_detector_is_refused_with_the_known_ones_before_any_image_is_decoded(
    tmp_path: Path, refused: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_decoded(monkeypatch)
    line = refused("--detector", "yolo", "--out", tmp_path / "run")
    assert "fasterrcnn_resnet50_fpn" in line
    assert "tiny" in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_reward_is_refused_with_the_known_ones_before_any_image_is_decoded(
    tmp_path: Path, refused: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_decoded(monkeypatch)
    assert "pool_ap" in refused("--reward", "map", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named_before_any_work(tmp_path: Path, refused: Refusals) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "run") in refused("--out", tmp_path / "file" / "run")


def test_a_box_that_leaves_its_image_is_clipped_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(folder, "train", box(100, 100, 60, 60))
    edited(folder, "test", box(1, 1, 0, 5))
    rl_det.open_data(folder)
    told = capsys.readouterr().err
    assert "train.json: boxes that had to be repaired: 1 clipped\n" in told
    assert "test.json: boxes that had to be repaired: 1 dropped without a size\n" in told


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device auto or cpu"):
        request.Request(device="cuda")
