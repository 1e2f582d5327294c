"""`rl-det detect` and `rl-det onnx`: what they write, and what they refuse."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
from cli.asking import error_of
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from unchecked import unchecked

from rl_det import cli
from rl_det.storage.checksums import read_sealed, write_sealed
from rl_det.storage.run import RESULTS


def test_detect_draws_and_writes_coco_results(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.open(data / "images" / "test0.png").save(images / "one.png")
    Image.open(data / "images" / "test1.png").convert("L").resize((200, 90)).save(images / "two.jpg")
    out = tmp_path / "found"
    cli.main(["detect", str(run / "ppo"), str(images), "--out", str(out), "--device", "cpu"])
    assert capsys.readouterr().out == f"the pictures and detections.json are in {out}\n"
    assert sorted(file.name for file in out.iterdir()) == ["detections.json", "one.png", "two.png"]
    with Image.open(out / "two.png") as picture:
        assert picture.size == (600, 270), "three times as large, so that the names can be read"
    rows = json.loads((out / "detections.json").read_text())
    assert {row["image_id"] for row in rows} == {"one.png", "two.jpg"}
    assert {row["category_id"] for row in rows} <= set(range(1, 11))
    for row in rows:
        left, top, width, height = row["bbox"]
        wide, high = (128, 128) if row["image_id"] == "one.png" else (200, 90)
        assert left >= 0
        assert top >= 0
        assert width >= 0
        assert height >= 0
        assert left + width <= wide + 1e-3
        assert top + height <= high + 1e-3
        assert 0 <= row["score"] <= 1


def test_names_that_would_turn_or_break_text_come_through_detect_and_check(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    hostile = [f"name{sign}" for sign in ("\u202e", "\u2066", "\n", "\t", "\0", "\ud800", *"6789")]
    other, tuned = shutil.copytree(data, tmp_path / "other"), shutil.copytree(run / "ppo", tmp_path / "tuned")
    for split in ("train", "val", "test"):
        told = json.loads((other / f"{split}.json").read_text())
        for entry, name in zip(told["categories"], hostile, strict=True):
            entry["name"] = name
        (other / f"{split}.json").write_text(json.dumps(told))
    write_sealed(tuned / "model.json", {**read_sealed(tuned / "model.json", "a card"), "classes": hostile})
    out, picture = tmp_path / "found", tmp_path / "check.png"
    cli.main(["detect", str(tuned), "--data", str(other), "--out", str(out), "--threshold", "0", "--device", "cpu"])
    cli.main(["check", str(other), "--picture", str(picture)])
    assert picture.exists()
    assert len(list(out.glob("*.png"))) == 5
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    assert {r"name\u202e", r"name\u2066", r"name\n", r"name\t", r"name\x00", r"name\ud800"} <= {
        line.strip().split(":")[0] for line in lines
    }
    line = error_of(capsys, "detect", tuned, "--data", data)
    assert r"name\u202e, name\u2066, name\n" in line


def test_a_row_whose_name_is_half_a_character_is_printed(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    text = json.dumps(read_sealed(copied / RESULTS, "results")).replace('"ppo"', '"ppo\\ud800\\u202e"')
    told = {name: value for name, value in json.loads(text).items() if name != "checksums"}
    told["detector"] = "tiny\ud800\n"
    (copied / RESULTS).write_text(json.dumps(told))
    cli.main(["report", str(copied)])
    printed = capsys.readouterr().out
    assert r"ppo\ud800\u202e" in printed
    assert r"tiny\ud800\n" in printed
    assert [line for line in printed.splitlines() if not line.isprintable()] == []


def test_detect_on_a_data_set_writes_results_that_pycocotools_reads(run: Path, data: Path, tmp_path: Path) -> None:
    cli.main(["detect", str(run / "ppo"), "--data", str(data), "--out", str(tmp_path / "found"), "--device", "cpu"])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(data / "test.json"))
        judge = COCOeval(truth, truth.loadRes(str(tmp_path / "found" / "detections.json")), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    told = json.loads((run / RESULTS).read_text())["methods"]["ppo"]["AP"]
    assert judge.stats[0] == pytest.approx(told, abs=1e-6)


def test_detect_takes_images_or_a_data_set_of_its_classes(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    assert "or --data; not both" in error_of(capsys, "detect", run / "ppo", tmp_path, "--data", data)
    other = shutil.copytree(data, tmp_path / "other")
    for split in ("train", "val", "test"):
        told = json.loads((other / f"{split}.json").read_text())
        told["categories"][0]["name"] = "zero"
        (other / f"{split}.json").write_text(json.dumps(told))
    line = error_of(capsys, "detect", run / "ppo", "--data", other)
    assert "must have the detector's classes; 0 is not among its own" in line


def test_detect_overwrites_no_image_and_confuses_no_two(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.open(data / "images" / "test0.png").save(tmp_path / folder / "one.png")
    before = (tmp_path / "a" / "one.png").read_bytes()
    line = error_of(capsys, "detect", run / "ppo", tmp_path / "a" / "one.png", "--out", tmp_path / "a")
    assert "its picture would overwrite the image" in line
    assert (tmp_path / "a" / "one.png").read_bytes() == before
    Image.open(data / "images" / "test1.png").save(tmp_path / "a" / "one.jpg")
    line = error_of(capsys, "detect", run / "ppo", tmp_path / "a", "--out", tmp_path / "c")
    assert "its picture would be that of" in line
    assert not (tmp_path / "c").exists()
    (tmp_path / "a" / "one.jpg").unlink()
    (tmp_path / "a" / "._one.png").write_bytes(b"what a Macintosh leaves beside a file")
    cli.main(["detect", str(run / "ppo"), str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c")])
    assert sorted(file.relative_to(tmp_path / "c").as_posix() for file in (tmp_path / "c").rglob("*.png")) == [
        "a/one.png",
        "b/one.png",
    ]
    rows = json.loads((tmp_path / "c" / "detections.json").read_text())
    assert {row["image_id"] for row in rows} == {"a/one.png", "b/one.png"}
    (tmp_path / "a" / "two.png").symlink_to(tmp_path / "b" / "one.png")
    given = [tmp_path / "a", tmp_path / "a" / "one.png", tmp_path / "a" / ".." / "a" / "one.png"]
    cli.main(["detect", str(run / "ppo"), *map(str, given), "--out", str(tmp_path / "d")])
    rows = json.loads((tmp_path / "d" / "detections.json").read_text())
    assert {row["image_id"] for row in rows} == {"one.png", "two.png"}
    assert len(rows) == len({str(row) for row in rows})


def test_detect_writes_over_its_own_files_and_over_no_others(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    image, out = tmp_path / "photo.bmp", tmp_path / "found"
    Image.open(data / "images" / "test0.png").save(image)
    given = ["detect", str(run / "ppo"), str(image), "--out", str(out), "--device", "cpu"]
    cli.main(given)
    cli.main(given)
    written = {file: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    for file, content in (
        ("photo.png", (data / "images" / "test1.png").read_bytes()),
        ("detections.json", b'{"mine": 1}'),
    ):
        (out / file).write_bytes(content)
        line = error_of(capsys, *given)
        assert f"{out / file}: is there, and no earlier `detect` has written it; give another folder (--out)" in line
        assert (out / file).read_bytes() == content
        (out / file).write_bytes(written[out / file])
    assert {file: file.read_bytes() for file in out.iterdir()} == written


def test_detect_tells_the_detections_of_each_image_id_that_a_file_has(run: Path, data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    told = json.loads((other / "test.json").read_text())
    told["images"].append(told["images"][0] | {"id": 999})
    (other / "test.json").write_text(json.dumps(told))
    cli.main(["detect", str(run / "ppo"), "--data", str(other), "--out", str(tmp_path / "found"), "--device", "cpu"])
    rows = json.loads((tmp_path / "found" / "detections.json").read_text())
    first, again = (
        [{**row, "image_id": 0} for row in rows if row["image_id"] == own] for own in (told["images"][0]["id"], 999)
    )
    assert first == again != []


def test_detect_takes_images_beyond_the_usual_limits_if_they_are_raised(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    Image.open(data / "images" / "test0.png").resize((1100, 20)).save(tmp_path / "long.png")
    given = ("detect", run / "ppo", tmp_path / "long.png", "--out", tmp_path / "found", "--device", "cpu")
    assert "long.png" in error_of(capsys, *given)
    cli.main([*map(str, given), "--max-aspect", "60"])
    assert (tmp_path / "found" / "long.png").exists()


@pytest.mark.parametrize("flags", [("--test-data", "other"), ("--keep-difficult",)])
def test_detect_refuses_flags_that_do_nothing(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, flags: tuple[str, ...]
) -> None:
    assert "detect has no use for" in error_of(capsys, "detect", run / "ppo", "--data", data, *flags)


def test_a_runs_folder_is_no_detector_and_those_in_it_are_named(
    capsys: pytest.CaptureFixture[str], run: Path, data: Path, tmp_path: Path
) -> None:
    expected = f"{run}: must be a folder that was exported; those in it are: "
    assert expected in error_of(capsys, "detect", run, data / "images")
    line = error_of(capsys, "finetune", "--data", data, "--detector", run, "--out", tmp_path / "new")
    assert expected in line
    assert "ppo" in line


def test_onnx_writes_one_file_with_the_classes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    file = tmp_path / "new" / "tuned.onnx"
    with unchecked():
        cli.main(["onnx", str(run / "ppo"), str(file), "--image-size", "96", "128"])
    assert capsys.readouterr().out == f"the ONNX file is {file}\n"
    model, card = onnx.load(file), json.loads((run / "ppo" / "model.json").read_text())
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert {name: about[name] for name in ("classes", "category_ids", "policy", "strategy")} == {
        name: card[name] for name in ("classes", "category_ids", "policy", "strategy")
    }
    assert [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim] == [3, 96, 128]


def test_onnx_refuses_what_is_no_exported_folder_and_a_size_that_cannot_be(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "must be a model.json that rl_det has exported" in error_of(capsys, "onnx", tmp_path, tmp_path / "a.onnx")
    size = ("--image-size", "0", "64")
    assert "image_size must be at least 1" in error_of(capsys, "onnx", run / "ppo", tmp_path / "a.onnx", *size)
    assert not list(tmp_path.iterdir())
