"""YOLO's label files and their images: where they lie, and what is read of their lines."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from data.opening import faults, picture, read, text
from data.yolo_folders import BOX, boxes, described, good, names, write_splits
from PIL import ExifTags, Image

from rl_det.data.check import Findings
from rl_det.data.folder import read_folder
from rl_det.data.images import ImageLimits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_splits(tmp_path)


def test_labels_are_where_the_last_images_was_or_beside_the_image(tmp_path: Path) -> None:
    places = {
        "images/x/images/train/a": "images/x/labels/train/a",
        "beside/b": "beside/b",
        "images/c.v1": "images/c.v1",
    }
    for image, label in places.items():
        picture(tmp_path / f"{image}.jpg")
        text(tmp_path / f"{label}.txt", BOX)
    described(tmp_path, train=[".", "./beside"], val=None, test=None)
    opened = good(tmp_path)
    assert sum(len(target) for split in opened.splits.values() for target in boxes(split)) == 3


def test_an_image_without_a_label_file_or_with_an_empty_one_is_background(folder: Path) -> None:
    (folder / "labels" / "train" / "a.txt").unlink()
    text(folder / "labels" / "val" / "b.txt", "\n  \n")
    opened = good(folder)
    assert boxes(opened.splits["train"])[0] == boxes(opened.splits["val"])[1] == []


def test_a_split_of_images_without_any_label_file_is_refused_with_the_place_of_one(folder: Path) -> None:
    for name in "ab":
        (folder / "labels" / "train" / f"{name}.txt").unlink()
    expected = "images/train: train: none of the 2 images has a label file, such as labels/train/a.txt"
    assert faults(folder)[0] == expected


def test_hidden_files_and_files_that_are_no_images_are_passed_over(folder: Path) -> None:
    for name in ("._a.png", "a.npy", "train.cache", ".DS_Store"):
        text(folder / "images" / "train" / name, "x")
    text(folder / "images" / "train" / "__MACOSX" / "c.png", "x")
    picture(folder / "images" / "train" / "C.PNG")
    picture(folder / "images" / "train" / "deeper" / "d.jpeg")
    assert names(good(folder).splits["train"]) == ["C.PNG", "a.png", "b.png", "d.jpeg"]


def test_a_polygon_is_the_box_around_it_with_its_own_area(folder: Path) -> None:
    text(folder / "labels/train/a.txt", "1 0.1 0.2 0.6 0.2 0.6 0.8\n0 0.1 0.1 0.3 0.1 0.3 0.9 0.1 0.9\n")
    target = good(folder).splits["train"].target(0)
    torch.testing.assert_close(target.boxes, torch.tensor([[2.0, 2.0, 12.0, 8.0], [2.0, 1.0, 6.0, 9.0]]))
    assert target.area.tolist() == pytest.approx([30, 32], abs=4)
    assert target.labels.tolist() == [2, 1]


def test_keypoints_behind_a_box_are_not_a_polygon(folder: Path) -> None:
    described(folder, kpt_shape=[3, 2])
    text(folder / "labels/train/a.txt", "0 0.5 0.5 0.5 0.5 0.1 0.2 0.3 0.4 0.9 0.9\n" + BOX)
    assert good(folder).splits["train"].target(0).boxes.tolist() == [[5, 2.5, 15, 7.5]] * 2


@pytest.mark.parametrize(
    "line", ["0.0 5e-1 .5 0.5 0.50", "  0\t0.5 0.5  0.5 0.5\r", "\ufeff0 0.5 0.5 0.5 0.5", "+0 0.5 0.5 0.5 0.5"]
)
def test_numbers_are_read_in_every_usual_form(folder: Path, line: str) -> None:
    text(folder / "labels/train/a.txt", line)
    assert boxes(good(folder).splits["train"])[0] == [[5, 2.5, 15, 7.5]]


LINES: dict[str, tuple[str, str]] = {
    "a confidence": ("0 0.5 0.5 0.5 0.5 0.9", "must be `class cx cy w h`; the sixth number looks like a confidence"),
    "three numbers": ("0 0.5 0.5", "must be `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`; got 3 numbers"),
    "an odd polygon": (
        "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1",
        "must be `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`; got 8 numbers",
    ),
    "words": ("cat 0.5 0.5 0.5 0.5", "must be numbers; got 'cat'"),
    "commas": ("0,0.5,0.5,0.5,0.5", "must be numbers; got '0,0.5,0.5,0.5,0.5'"),
    "underscores": ("0 0.5 0.5 0.5 0_1", "must be finite numbers; got '0_1'"),
    "not a number": ("0 nan 0.5 0.5 0.5", "must be finite numbers; got 'nan'"),
    "infinite": ("0 0.5 0.5 inf 0.5", "must be finite numbers; got 'inf'"),
    "beyond the image": ("0 1.2 0.5 0.5 0.5", "must be shares of the image in [0, 1]; got [1.2, 0.5, 0.5, 0.5]"),
    "before the image": ("0 -0.2 0.5 0.5 0.5", "must be shares of the image in [0, 1]; got [-0.2, 0.5, 0.5, 0.5]"),
    "pixels": (
        "0 10 5 10 5",
        "must be shares of the image in [0, 1]; got [10.0, 5.0, 10.0, 5.0]; these look like pixels",
    ),
    "a negative width": ("0 0.5 0.5 -0.005 0.5", "width and height must not be negative"),
    "a class too many": ("2 0.5 0.5 0.5 0.5", "the class must be one of 0..1; got 2"),
    "a negative class": ("-1 0.5 0.5 0.5 0.5", "the class must be one of 0..1; got -1"),
    "half a class": ("0.5 0.5 0.5 0.5 0.5", "the class must be one of 0..1; got 0.5"),
}


@pytest.mark.parametrize("fault", LINES)
def test_a_line_that_is_neither_box_nor_polygon_is_named_and_the_others_are_read(folder: Path, fault: str) -> None:
    line, message = LINES[fault]
    text(folder / "labels/train/a.txt", f"{BOX}\n{line}\n{BOX}")
    opened, findings = read(folder)
    assert len(findings.faults) == 1
    assert str(findings.faults[0]).startswith(f"{folder}/labels/train/a.txt: line 3: {message}")
    assert len(boxes(opened.splits["train"])[0]) == 2


def test_boxes_that_leave_their_image_by_little_are_clipped_and_counted_and_by_a_hair_not(folder: Path) -> None:
    text(folder / "labels/train/a.txt", "0 0.9 0.5 0.4 0.5\n0 0.5 0.5 1.00000001 1\n0 0.5 0.5 0 0.1\n")
    opened, findings = read(folder)
    assert findings.faults == []
    assert list(findings.repairs.values()) == [{"clipped": 1, "outside": 0, "empty": 1}]
    assert boxes(opened.splits["train"])[0] == [[14, 2.5, 20, 7.5], [0, 0, 20, 10]]
    strict = Findings(strict=True)
    read_folder(folder, strict)
    assert "train: labels/train/a.txt: line 3: a box that would be dropped" in str(strict.faults[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.write_bytes(b"0 0.5 \xff"), "labels/train/a.txt: the file: not text in UTF-8"),
        (lambda file: file.mkdir(), "labels/train/a.txt: the file: must be a regular file"),
        (os.mkfifo, "labels/train/a.txt: the file: must be a regular file"),
        (lambda file: file.symlink_to("/etc/passwd"), "labels/train/a.txt: the file: must lie in the data's folder"),
        (lambda file: file.symlink_to("nowhere"), "labels/train/a.txt: the file: cannot be read"),
        (lambda file: file.symlink_to("a.txt"), "labels/train/a.txt: the file: "),
        (lambda file: file.write_text(" " * (2**24 + 1)), "labels/train/a.txt: the file: must hold at most"),
    ],
)
def test_a_label_file_that_cannot_be_read_is_named(folder: Path, make: Callable[[Path], object], message: str) -> None:
    (folder / "labels/train/a.txt").unlink()
    make(folder / "labels/train/a.txt")
    found = faults(folder)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_a_folder_of_images_that_leads_out_is_not_read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = picture(tmp_path_factory.mktemp("other") / "x.png")
    (folder / "linked").symlink_to(elsewhere.parent)
    (folder / "images/train/out.png").symlink_to(elsewhere)
    described(folder, val="linked")
    found = faults(folder)
    assert found[0].startswith("data.yaml: val: there is no 'linked' in ")
    assert found[1].startswith("images/train/out.png: image of train: must lie in the data's folder")


def test_a_damaged_image_is_one_fault_and_its_size_is_asked_within_the_given_limits(folder: Path) -> None:
    (folder / "images/train/a.png").write_bytes(b"no image")
    assert [line.partition(" (")[0] for line in faults(folder)] == [
        "images/train/a.png: image 1 of train: not an image that Pillow can read"
    ]
    picture(folder / "images/train/a.png", (300, 1))
    assert faults(folder)[0].startswith("images/train/a.png: image 1 of train: 300 x 1 pixels are longer")
    opened = good(folder, limits=ImageLimits(max_aspect=300.0))
    assert boxes(opened.splits["train"])[0] == [[75, 0.25, 225, 0.75], [0, 0, 300, 1]]


def test_shares_are_of_the_upright_image(folder: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture(folder / "images/train/a.png", exif=exif)
    target = good(folder).splits["train"].target(0)
    assert target.boxes.tolist() == [[2.5, 5, 7.5, 15], [0, 0, 10, 20]]
