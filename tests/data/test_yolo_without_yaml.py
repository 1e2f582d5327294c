"""YOLO's labels without a data.yaml: class names in a text file, and the folders that LabelImg and CVAT write."""

from pathlib import Path

import pytest
from data.opening import faults, picture, text
from data.yolo_folders import BOX, boxes, good, write_splits


def test_labelimgs_folder_of_images_labels_and_class_names_is_one_listing_that_is_divided(tmp_path: Path) -> None:
    for name in "abcdef":
        picture(tmp_path / f"{name}.jpg")
        text(tmp_path / f"{name}.txt", BOX)
    picture(tmp_path / "without_objects.PNG")
    text(tmp_path / "classes.txt", "cat\ndog\n")
    opened = good(tmp_path)
    assert opened.categories == {0: "cat", 1: "dog"}
    assert [*map(len, opened.splits.values())] == [5, 1, 1]
    assert [note.partition(":")[0] for note in opened.notes] == ["there is no test split", "there is no val split"]
    assert sum(len(target) for split in opened.splits.values() for target in boxes(split)) == 6


def test_labelimgs_folders_of_the_splits_share_the_class_names_above_them(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        for number in range(count):
            picture(tmp_path / split / f"{number}.jpg")
            text(tmp_path / split / f"{number}.txt", BOX)
    text(tmp_path / "classes.txt", "cat\ndog\n")
    assert [*map(len, good(tmp_path).splits.values())] == [3, 2, 1]


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt"])
@pytest.mark.parametrize("divided", [True, False])
def test_class_names_in_a_text_file_stand_for_a_yaml_file(tmp_path: Path, place: str, divided: bool) -> None:
    folder = write_splits(tmp_path)
    (folder / "data.yaml").unlink()
    text(folder / place, "cat\ndog\n\n")
    if not divided:
        for kind in ("images", "labels"):
            for file in list((folder / kind).rglob("?.*")):
                file.rename(folder / kind / f"{file.parent.name}_{file.name}")
            for split in ("train", "val", "test"):
                (folder / kind / split).rmdir()
    opened = good(folder)
    assert opened.categories == {0: "cat", 1: "dog"}
    assert [*map(len, opened.splits.values())] == ([2, 2, 2] if divided else [4, 1, 1])


def test_labels_whose_classes_have_no_names_are_refused(tmp_path: Path) -> None:
    folder = write_splits(tmp_path)
    (folder / "data.yaml").unlink()
    assert faults(folder) == [
        "data.yaml: the file: there is none, nor a classes.txt, that names the classes of labels/"
    ]
    text(folder / "classes.txt", "\ndog\n")
    assert faults(folder) == ["classes.txt: line 1: must name a class; it is empty"]


def test_class_names_beside_images_without_text_files_are_no_yolo(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    text(tmp_path / "classes.txt", "cat\ndog\n")
    assert "must be of a layout that is known: " in faults(tmp_path)[0]
    text(tmp_path / "a.txt", BOX)
    text(tmp_path / "classes.txt", "")
    assert faults(tmp_path) == ["classes.txt: line 1: must name a class; it is empty"]


@pytest.fixture
def darknet(tmp_path: Path) -> Path:
    """CVAT's export "YOLO 1.1", with three training images and two for validation."""
    for subset, count in (("train", 3), ("valid", 2)):
        for number in range(count):
            picture(tmp_path / f"obj_{subset}_data" / "cam 1" / f"{subset}{number}.png")
            text(tmp_path / f"obj_{subset}_data" / "cam 1" / f"{subset}{number}.txt", BOX)
        lines = [f"data/obj_{subset}_data/cam 1/{subset}{number}.png\n" for number in range(count)]
        text(tmp_path / f"{subset}.txt", "".join(lines))
    text(tmp_path / "obj.names", "cat\ndog\n")
    text(tmp_path / "obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n")
    return tmp_path


@pytest.mark.parametrize("with_lists", [True, False])
def test_cvats_yolo_1_1_opens_by_its_lists_or_by_its_folders(darknet: Path, with_lists: bool) -> None:
    if not with_lists:
        for subset in ("train", "valid"):
            (darknet / f"{subset}.txt").unlink()
    opened = good(darknet)
    assert opened.categories == {0: "cat", 1: "dog"}
    assert [*map(len, opened.splits.values())] == [3, 1, 1]
    assert boxes(opened.splits["train"]) == [[[5, 2.5, 15, 7.5]]] * 3


def test_cvats_yolo_1_1_without_its_images_is_refused_naming_what_is_missing(darknet: Path) -> None:
    (darknet / "obj_train_data" / "cam 1" / "train1.png").unlink()
    assert faults(darknet)[0].startswith(
        "data/obj_train_data/cam 1/train1.png: line 2 of train.txt: there is no such image file"
    )
    for part in ("train.txt", "valid.txt", "obj_train_data", "obj_valid_data"):
        (darknet / part).rename(darknet / f"other_{part}")
    message = (
        "obj.names: the file: must have train.txt, a list of images, or obj_train_data/ beside it; there is neither"
    )
    assert faults(darknet) == [message]
