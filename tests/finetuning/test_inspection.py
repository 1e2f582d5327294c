"""`rl-det check`: all faults of all files are listed, in one reading; what is repaired, counted and suspicious is told."""

from pathlib import Path

import numpy as np
import pytest
from data.coco_documents import NUM_IMAGES, document, write
from PIL import Image

import rl_det
from rl_det import cli
from rl_det.data.images import ImageLimits
from rl_det.finetuning.inspection import inspect

SMALL = rl_det.Budget(
    num_updates=1, images_per_update=4, num_validations=1, max_views=1, num_draws=2, warm_start_share=0.005,
    evaluated_candidates=50, validated_candidates=50,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in NUM_IMAGES:
        write(tmp_path / "data", split, f"{split}.json", "images")
    return tmp_path / "data"


def spoil(folder: Path) -> None:
    """Four faults in three files."""
    told = document("train")
    told["annotations"][0]["category_id"] = 9
    told["annotations"][3]["area"] = -1
    write(folder, "train", "train.json", "images", told)
    (folder / "images" / "val2.png").write_bytes((folder / "images" / "val2.png").read_bytes()[:45])
    (folder / "images" / "test1.png").unlink()


def test_all_faults_of_all_files_are_listed(folder: Path) -> None:
    spoil(folder)
    found = inspect(folder)
    told = found.text(folder)
    assert not found.is_sound
    for line in (
        f"fault: {folder}/train.json: annotation 0: category_id 9 is not among the categories [1, 2]",
        f"fault: {folder}/train.json: annotation 3: area must be",
        f"fault: {folder}/images/test1.png: image 1 of test.json: there is no such image file",
        f"fault: {folder}/images/val2.png: image 2 of val.json: ",
        "train: 5 images (30 x 20 to 30 x 20 pixels), 8 boxes, 0 crowds",
        "\n4 faults\n",
    ):
        assert line in told
    found.draw(folder / "seen.png")
    with Image.open(folder / "seen.png") as picture:
        assert picture.width > 500


def test_a_broken_file_of_one_split_hides_no_fault_of_another(folder: Path) -> None:
    spoil(folder)
    (folder / "train.json").write_text("{")
    told = inspect(folder).text(folder)
    assert "train.json: the file: not JSON" in told
    assert "test1.png: image 1 of test.json" in told
    assert "val2.png: image 2 of val.json" in told


def test_repairs_are_faults_if_strict(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = document("train")
    told["annotations"][0]["bbox"] = [25, 1, 10, 5]
    told["annotations"][1]["bbox"] = [1, 1, 10, 0]
    write(folder, "train", "train.json", "images", told)
    assert inspect(folder).is_sound
    assert "repaired: 1 clipped, 1 dropped without a size" in inspect(folder).text(folder)
    strict = inspect(folder, strict=True)
    assert [fault.args[1] for fault in strict.findings.faults] == ["annotation 0", "annotation 1"]
    with pytest.raises(ValueError, match=r"train\.json: annotation 0: a box that would be clipped"):
        rl_det.open_data(folder, strict=True)
    monkeypatch.chdir(folder)
    cli.main(["check", "."])
    with pytest.raises(SystemExit, match="1"):
        cli.main(["check", ".", "--strict"])
    assert (folder / "data-check.png").exists()


def test_what_a_person_wants_to_know_is_counted(folder: Path) -> None:
    told = document("val")
    told["annotations"] = [
        entry for entry in told["annotations"] if entry["image_id"] != 3 and entry["category_id"] == 1
    ]
    told["annotations"].append({**told["annotations"][0], "id": 99})
    told["annotations"][1]["iscrowd"] = 1
    write(folder, "val", "val.json", "images", told)
    found = inspect(folder).text(folder)
    assert (
        "val: 4 images (30 x 20 to 30 x 20 pixels), 4 boxes, 1 crowds, 1 images without boxes, 1 boxes that repeat"
        in found
    )
    assert "val.json: val has no annotation of unripe" in found
    assert "  ripe: 4\n  unripe: 0\n" in found


def test_images_whose_range_is_hardly_used_are_warned_of(folder: Path) -> None:
    for k in range(1, 5):
        dark = np.full((20, 30), 2500 - k, np.uint16)  # 12 bits in files of 16
        Image.fromarray(dark).save(folder / "images" / f"val{k}.png")
    assert "val.json: the brightest pixel of 4 images is at 4 % of the range" in inspect(folder).text(folder)


def test_finetune_decodes_before_it_trains(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for k in range(1, 6):
        Image.new("RGB", (30, 20), (9, 9, k)).save(folder / "images" / f"train{k}.png")
    (folder / "images" / "val2.png").write_bytes((folder / "images" / "val2.png").read_bytes()[:45])
    data = rl_det.open_data(folder)
    detector = rl_det.load_detector("tiny", data, weights="none", device="cpu")
    with pytest.raises(ValueError, match=r"val2\.png: image 2 of val\.json: the image cannot be decoded"):
        rl_det.finetune(detector, data, budget=SMALL, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "train.json: the brightest pixel of 5 images is at 4 % of the range" in capsys.readouterr().err


def test_an_image_of_which_resizing_leaves_nothing_is_named_before_training(folder: Path, tmp_path: Path) -> None:
    told = document("train")
    told["images"][1] |= {"width": 4000, "height": 2}
    told["annotations"] = [entry for entry in told["annotations"] if entry["image_id"] != 2]
    write(folder, "train", "train.json", "images", told)
    Image.new("RGB", (4000, 2)).save(folder / "images" / "train2.png")
    with pytest.raises(
        ValueError, match=r"train2\.png: image 2 of train\.json: 4000 x 2 pixels are longer than max_aspect=50"
    ):
        rl_det.open_data(folder)
    data = rl_det.open_data(folder, limits=ImageLimits(max_aspect=2000.0))
    detector = rl_det.load_detector("tiny", data, weights="none", device="cpu")
    with pytest.raises(
        ValueError, match=r"train2\.png: image 2 of train\.json: the detector cannot take 4000 x 2 pixels"
    ):
        rl_det.finetune(detector, data, budget=SMALL, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_limits_are_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(folder, limits=ImageLimits(max_pixels=600)).is_sound
    assert len(inspect(folder, limits=ImageLimits(max_pixels=599)).findings.faults) == 12 + 3  # and no box in any split
    with pytest.raises(SystemExit, match="1"):
        cli.main(["check", str(folder), "--max-aspect", "1.4", "--picture", str(folder / "seen.png")])
    assert "30 x 20 pixels are longer than max_aspect=1.4 times" in capsys.readouterr().out
