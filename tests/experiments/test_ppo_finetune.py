"""The main job's script: what it writes, that it repeats itself, and that a user's mistake costs one line and nothing else."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ppo_finetune
import pytest
import task
import torch
import tuning
import worlds
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors import build_detector
from rl_det.storage.weights import save_state
from rl_det.training import continued, supervised, warm_start

SCRIPT = Path(ppo_finetune.__file__)
NUM_IMAGES = {"train": 6, "val": 4, "test": 4}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The smoke budget made smaller still, and a cache of the test's own."""
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(task.NUM_SCENES, "smoke", {"train": 12, "val": 8, "test": 8})
    monkeypatch.setattr(tuning, "IMAGES_PER_UPDATE", 6)
    monkeypatch.setattr(worlds, "SAMPLES_PER_IMAGE", 2)
    few_steps = supervised.Config(num_steps=2, batch_size=4, validate_every=1)
    monkeypatch.setattr(task, "FOLDER_WARM_START", few_steps)
    monkeypatch.setattr(task, "DIGITS_WARM_START", few_steps)
    few_of_the_head = continued.Config(num_steps=2, batch_size=4, validate_every=1)
    monkeypatch.setattr(task, "FOLDER_HEAD", few_of_the_head)
    monkeypatch.setattr(task, "DIGITS_HEAD", few_of_the_head)
    monkeypatch.setattr(warm_start, "HEAD_IMAGES", 8)


def run(**arguments: Any) -> dict[str, Any]:
    ppo_finetune.main(task.Arguments(**{"budget": "smoke", "device": "cpu"} | arguments))
    results: dict[str, Any] = json.loads((arguments["out"] / "results.json").read_text())
    return results


def error_of(capsys: pytest.CaptureFixture[str], **arguments: Any) -> str:
    """The one line that the script ends with."""
    with pytest.raises(SystemExit) as ending, task.clear_errors():
        run(**arguments)
    assert ending.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten digit scenes as a COCO-format folder, of two categories with ids of their own."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for split, count in NUM_IMAGES.items():
        scenes = DigitScenes("train", num_scenes=count, seed=len(split))
        document: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "low"}, {"id": 7, "name": "high"}],
        }
        for index in range(count):
            sample = scenes[index]
            name = f"{split}{index}.png"
            to_pil_image(sample.image).save(root / "images" / name)
            document["images"].append({"id": index, "file_name": name, "width": 128, "height": 128})
            for box, label in zip(sample.target.boxes.tolist(), sample.target.labels.tolist(), strict=True):
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]),
                        "image_id": index,
                        "category_id": 3 if label <= 5 else 7,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    }
                )
        (root / f"{split}.json").write_text(json.dumps(document))
    return root


def edited(folder: Path, split: str, edit: Callable[[dict[str, Any]], object]) -> None:
    file = folder / f"{split}.json"
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def test_a_run_leaves_its_whole_folder_and_says_what_each_method_gave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(out=tmp_path / "run")
    voted = ["warm_start_voted", "continued_supervised_voted"]
    assert list(results["methods"]) == ["warm_start", "continued_supervised", *voted, "ppo"]
    assert set(results["seconds"]) == set(results["methods"])
    assert {"seed", "data", "detector", "device"} <= set(results)
    for figures in results["methods"].values():
        assert {"AP", "AP50", "AP75", "F1", "calibration_error", "calibration_error_before"} <= set(figures)
        assert 0 < figures["AP"] < figures["AP50"] <= 1
    files = {str(file.relative_to(tmp_path / "run")) for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert {"config.json", "metrics.jsonl", "checkpoints/ppo.pt", "ppo/detector.pt"} <= files
    assert "ppo/voting.pt2" in files
    assert "ppo/context.pt2" not in files
    assert any(file.startswith("tensorboard/") for file in files)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"continued_supervised", "ppo"}
    assert any("val_AP" in line for line in lines)
    assert "continued_supervised" in capsys.readouterr().out


def test_a_small_data_set_is_not_gone_through_for_ever() -> None:
    digits = task.Arguments(budget="full")
    assert ppo_finetune.ppo_config(digits, 100_000).num_updates == tuning.NUM_UPDATES["full"]
    few = ppo_finetune.ppo_config(digits, 90)
    assert few.num_updates * few.num_epochs * tuning.IMAGES_PER_UPDATE >= 90 * tuning.MAX_PASSES
    assert (few.num_updates - 1) * few.num_epochs * tuning.IMAGES_PER_UPDATE < 90 * tuning.MAX_PASSES


@pytest.mark.parametrize("policy", ["rescore", "select", "context", "adjust"])
def test_the_other_policies_run_and_the_other_reward(tmp_path: Path, policy: str) -> None:
    results = run(out=tmp_path / "run", policy=policy, reward="image_ap")
    assert results["policy"] == policy
    assert results["methods"]["ppo"]["AP"] > 0.3
    assert (tmp_path / "run" / "ppo" / "context.pt2").exists() == (policy == "context")


def test_the_same_seed_gives_the_same_methods_bit_for_bit_and_another_seed_does_not(tmp_path: Path) -> None:
    first, second, other = (run(out=tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first["methods"] == second["methods"]
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in "abc"]
    assert logs[0] == logs[1] != logs[2]
    assert first["methods"]["warm_start"] == other["methods"]["warm_start"]


def test_a_coco_folder_is_warm_started_once_and_found_in_the_cache(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(out=tmp_path / "a", data=folder)

    def never(*_: Any, **__: Any) -> float:
        raise AssertionError("the second run trained a warm start again")

    monkeypatch.setattr(supervised, "train", never)
    second = run(out=tmp_path / "b", data=folder)
    assert first["methods"] == second["methods"]
    assert first["data"] == str(folder)


def test_weights_none_trains_afresh(tmp_path: Path) -> None:
    afresh, shipped = run(out=tmp_path / "a", weights="none"), run(out=tmp_path / "b")
    assert afresh["methods"]["warm_start"]["AP"] < 0.1 < shipped["methods"]["warm_start"]["AP"]


def test_a_user_sees_one_line_and_exit_code_2_and_finds_nothing_half_written(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nowhere" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not (tmp_path / "run").exists()


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
        ("test", box(1, 1, 0, 5), "annotation 5"),
        ("train", same_id_twice, "image 0"),
        ("val", empty, "images"),
    ],
)
def test_a_broken_annotation_file_is_named_with_its_entry(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], split: str, edit: Any, entry: str
) -> None:
    edited(folder, split, edit)
    line = error_of(capsys, out=tmp_path / "run", data=folder)
    assert str(folder / f"{split}.json") in line
    assert entry in line
    assert not (tmp_path / "run").exists()


def test_what_is_not_json_is_named(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "val.json").write_text("boxes, please")
    assert str(folder / "val.json") in error_of(capsys, out=tmp_path / "run", data=folder)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("broken", ["missing", "truncated"])
def test_an_image_that_cannot_be_read_is_named(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], split: str, broken: str
) -> None:
    file = folder / "images" / f"{split}1.png"
    if broken == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:3000])
        with Image.open(file) as image:
            assert image.size == (128, 128)  # the header is whole
    assert str(file) in error_of(capsys, out=tmp_path / "run", data=folder)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_architecture_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "three_classes.pt"
    save_state(build_detector("tiny", num_classes=3).plain(), file)
    assert str(file) in error_of(capsys, out=tmp_path / "run", weights=str(file))
    assert not (tmp_path / "run").exists()


def test_an_unknown_detector_is_refused_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, out=tmp_path / "run", detector="yolo")
    assert "fasterrcnn_resnet50_fpn" in line
    assert "tiny" in line


def test_an_unknown_reward_is_refused_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "pool_ap" in error_of(capsys, out=tmp_path / "run", reward="map")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "run") in error_of(capsys, out=tmp_path / "file" / "run")


def test_a_box_that_leaves_its_image_is_clipped_and_counted(tmp_path: Path, folder: Path) -> None:
    edited(folder, "train", box(100, 100, 60, 60))
    with pytest.warns(UserWarning, match=r"train.json: .* 1 clipped"):
        run(out=tmp_path / "run", data=folder)


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device auto or cpu"):
        task.Arguments(device="cuda")
