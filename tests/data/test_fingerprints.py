"""What a data set is known by: its labels, and the bytes of its images, wherever they lie and whenever they were written."""

import json
import os
import shutil
from pathlib import Path

import pytest
from data.coco_documents import LAYOUTS, NUM_IMAGES, document, write
from PIL import Image

from rl_det.data.check import DataError
from rl_det.data.open import open_data
from rl_det.data.splits import first_of
from rl_det.detectors.contents import content


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_copy_with_other_times_has_the_same_fingerprint_and_other_bytes_under_the_same_time_another(
    tmp_path: Path, name: str
) -> None:
    for split, (file, folder) in LAYOUTS[name].items():
        write(tmp_path / "a", split, file, folder)
    picture = Path(LAYOUTS[name]["val"][1]) / "val1.png"
    before = open_data(tmp_path / "a").fingerprints()
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    os.utime(tmp_path / "b" / picture, (1, 1))
    assert open_data(tmp_path / "b").fingerprints() == before
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    of_a, of_c = tmp_path / "a" / picture, tmp_path / "c" / picture
    of_c.write_bytes(of_c.read_bytes()[:-1] + b"!")
    os.utime(of_c, ns=(of_a.stat().st_atime_ns, of_a.stat().st_mtime_ns))
    assert {name for name, own in open_data(tmp_path / "c").fingerprints().items() if own != before[name]} == {"val"}


def test_the_first_images_are_known_by_their_own_files_alone(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    first = first_of(open_data(tmp_path), train=1, val=1, test=1)
    before = content(first.train)
    Image.new("RGB", (30, 20), (77, 7, 7)).save(tmp_path / "images" / "train2.png")
    assert content(first_of(open_data(tmp_path), train=1, val=1, test=1).train) == before
    Image.new("RGB", (30, 20), (77, 7, 7)).save(tmp_path / "images" / "train1.png")
    assert content(first_of(open_data(tmp_path), train=1, val=1, test=1).train) != before


def test_a_file_that_vanishes_is_named_when_its_contents_are_read(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    data = open_data(tmp_path)
    (tmp_path / "images" / "val1.png").unlink()
    with pytest.raises(DataError, match=r"val1\.png: .* cannot be read \(No such file or directory\)"):
        data.fingerprints()


def test_a_changed_label_or_picture_changes_the_fingerprint(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    before = open_data(tmp_path).fingerprints()
    told = document("train")
    told["annotations"][0]["category_id"], told["annotations"][1]["category_id"] = 2, 1
    (tmp_path / "train.json").write_text(json.dumps(told))
    Image.new("RGB", (30, 20), (77, 7, 7)).save(tmp_path / "images" / "val1.png")
    after = open_data(tmp_path).fingerprints()
    assert before["train"] != after["train"]
    assert before["val"] != after["val"]
    assert before["test"] == after["test"]
