"""YOLO's layout: what is read of data.yaml and the label files, in all the places where programs put them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from data.opening import faults, picture, read, sound, text
from PIL import ExifTags, Image

from rl_det.data.annotated import AnnotatedImages
from rl_det.data.check import DataError, Findings
from rl_det.data.folder import Opened, read_folder
from rl_det.data.images import ImageLimits
from rl_det.data.open import open_data

BOX = "0 0.5 0.5 0.5 0.5\n"
"""(5, 2.5) to (15, 7.5) in an image of 20 x 10."""


def described(root: Path, **document: Any) -> Path:
    """data.yaml with two classes and three splits, changed; None removes a key."""
    whole = {"train": "images/train", "val": "images/val", "test": "images/test", "names": ["cat", "dog"]} | document
    return text(root / "data.yaml", yaml.safe_dump({key: value for key, value in whole.items() if value is not None}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three splits with two images each."""
    for split in ("train", "val", "test"):
        for name in "ab":
            picture(tmp_path / "images" / split / f"{name}.png")
            text(tmp_path / "labels" / split / f"{name}.txt", BOX + "1 0.5 0.5 1 1\n")
    described(tmp_path)
    return tmp_path


def good(path: Path, **options: Any) -> Opened:
    """What is read without a fault."""
    return sound(path, "YOLO", **options)


def boxes(images: AnnotatedImages) -> list[Any]:
    return [images.target(index).boxes.tolist() for index in range(len(images))]


def names(images: AnnotatedImages) -> list[str]:
    return [image.file.name for image in images.images]


def test_a_folder_with_a_data_yaml_is_three_splits_with_the_class_numbers_as_category_ids(folder: Path) -> None:
    splits = open_data(folder)
    assert (splits.classes, splits.category_ids) == (("cat", "dog"), (0, 1))
    for split in (splits.train, splits.val, splits.test):
        assert len(split) == 2
        target = split[1].target
        assert target.image_id == 2
        assert target.boxes.tolist() == [[5, 2.5, 15, 7.5], [0, 0, 20, 10]]
        assert target.labels.tolist() == [1, 2]
        assert target.area.tolist() == [50, 200]
        assert target.iscrowd.tolist() == [False, False]


def test_the_yaml_file_itself_opens_and_another_name_or_suffix_does_too(folder: Path) -> None:
    text(folder / "mkdocs.yml", "site_name: docs\n")
    text(folder / "broken.yaml", "[")
    for name in ("data.yaml", "data.yml", "pets.yaml"):
        os.replace(next(folder.glob("*s.yaml"), None) or next(folder.glob("data.y*")), folder / name)
        assert len(good(folder).splits["train"]) == 2
        assert len(good(folder / name).splits["train"]) == 2


NAMES: dict[str, Any] = {
    "a list": ["cat", "dog"],
    "a mapping": {0: "cat", 1: "dog"},
    "a mapping in another order": {1: "dog", 0: "cat"},
    "a mapping of numbers in quotes": {"0": "cat", "1": "dog"},
}


@pytest.mark.parametrize("form", NAMES)
def test_names_are_a_list_or_a_mapping(folder: Path, form: str) -> None:
    described(folder, names=NAMES[form], nc=2)
    assert good(folder).categories == {0: "cat", 1: "dog"}


def test_names_may_be_numbers(folder: Path) -> None:
    described(folder, names=[7, 1.5])
    assert good(folder).categories == {0: "7", 1: "1.5"}


YAML_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "too many classes": ({"nc": 3}, "data.yaml: nc: must be the number of names, 2; got 3"),
    "no number of classes": ({"nc": "two"}, "data.yaml: nc: must be the number of names, 2; got 'two'"),
    "names in one word": ({"names": "cat"}, "data.yaml: names: must be a list of class names, or a mapping"),
    "no names": ({"names": []}, "data.yaml: names: must be a list of class names"),
    "a gap": ({"names": {0: "cat", 2: "dog"}}, r"data.yaml: names: must count the classes 0\.\.1; got the key 2"),
    "a key twice": ({"names": {0: "cat", "0": "dog"}}, r"names: must count the classes 0\.\.1; got the key '0'"),
    "yes": ({"names": [True, "dog"]}, r"data.yaml: names\[0\]: must be text; got True \(put it into quotes\)"),
    "a nameless class": ({"names": ["cat", ""]}, r"data.yaml: names\[1\]: must be text; got ''"),
    "one name twice": ({"names": ["cat", "cat"]}, "category 1: the name 'cat' is that of category 0 too"),
    "a number for a folder": ({"train": 3}, "data.yaml: train: must be a folder, a list file"),
    "a list of numbers": ({"val": ["images/val", 3]}, "data.yaml: val: must be a folder, a list file"),
    "no such folder": ({"train": "pictures"}, "data.yaml: train: there is no 'pictures' in "),
    "a folder outside": ({"train": "../.."}, "data.yaml: train: there is no '../..' in "),
    "a folder outside by its whole path": ({"train": "/etc"}, "data.yaml: train: there is no '/etc' in .* nothing outside"),
    "a zero byte": ({"train": "a\0b"}, "data.yaml: train: there is no 'a.x00b' in "),
    "a name too long": ({"train": "x" * 5000}, "data.yaml: train: there is no 'x"),
    "an image": ({"train": "images/train/a.png"}, r"data.yaml: train: must be a folder or a list file \(.txt\)"),
    "a folder without images": ({"train": "labels/train"}, "labels/train: train: holds no image"),
    "keypoints": ({"kpt_shape": "17"}, "data.yaml: kpt_shape: must be two counts"),
    "no split that is there": ({"train": None, "val": None, "test": "t"}, "data.yaml: the file: must name a split"),
}  # fmt: skip


@pytest.mark.parametrize("fault", YAML_FAULTS)
def test_a_fault_of_the_yaml_file_is_named_by_its_key(folder: Path, fault: str) -> None:
    changes, message = YAML_FAULTS[fault]
    described(folder, **changes)
    found = faults(folder)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[0])


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{other}'] * 9)}]\n" for other, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{other}'] * 9)}]}}\n"
    for other, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DOCUMENTS: dict[str, tuple[str, str]] = {
    "no YAML": ("names: [cat", "not YAML that can be read"),
    "a tag": ("names: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "a key twice": ("names: [a]\nnames: [b]\ntrain: images\n", "a key comes twice"),
    "merges": (MERGES + "names: [cat]\ntrain: images\n", r"merges \(<<\) are not read"),
    "depth": ("names: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    "a date": ("names: 2001-99-99\ntrain: images\n", "not YAML that can be read"),
    "size": ("# " + "x" * 2**20 + "\nnames: [a]\ntrain: images\n", "must hold at most 1048576 bytes"),
    "nulls": ("\0", "not YAML that can be read"),
}


@pytest.mark.parametrize("fault", DOCUMENTS)
def test_a_yaml_file_that_cannot_be_read_is_refused(folder: Path, fault: str) -> None:
    content, message = DOCUMENTS[fault]
    text(folder / "data.yaml", content)
    for path in (folder, folder / "data.yaml"):
        with pytest.raises(DataError, match=rf"data\.yaml: the file: .*{message}"):
            read(path)


@pytest.mark.parametrize("key", ["names", "train"])
def test_references_to_one_list_again_and_again_do_not_fill_the_memory(folder: Path, key: str) -> None:
    text(
        folder / "data.yaml",
        BOMB + f"{key}: *i\n" + ("train: images/train\n" if key == "names" else "names: [cat, dog]\n"),
    )
    with pytest.raises(DataError, match=rf"data\.yaml: {key}.*: must be "):
        read(folder)


@pytest.mark.parametrize("document", ["train: images/train\n", "names: [cat]\n", "[]", ""])
def test_a_yaml_file_that_is_named_but_not_of_yolo_is_refused(folder: Path, document: str) -> None:
    with pytest.raises(DataError, match="the file: not YOLO's: must have `names`, and one of"):
        read(text(folder / "other.yaml", document))


@pytest.mark.parametrize("path", ["images", "./images", "{root}/images", "images/"])
def test_path_is_where_the_splits_are(folder: Path, path: str) -> None:
    described(folder, path=path.format(root=folder), train="train", val="val", test="test")
    assert [*map(len, good(folder).splits.values())] == [2, 2, 2]


@pytest.mark.parametrize("path", ["../datasets/pets", "/content/pets", "nowhere", "..", "/", "data.yaml", "", 3, "a\0"])
def test_a_path_that_is_not_in_the_folder_is_ignored(folder: Path, path: Any) -> None:
    described(folder, path=path)
    assert [*map(len, good(folder).splits.values())] == [2, 2, 2]


def test_roboflow_writes_folders_beside_the_yaml_file_as_if_they_were_above_it(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        for name in ("a_jpg.rf.0123", "b_jpg.rf.4567"):
            picture(tmp_path / split / "images" / f"{name}.jpg")
            text(tmp_path / split / "labels" / f"{name}.txt", BOX)
    described(
        tmp_path, train="../train/images", val="../valid/images", test="../test/images", nc=2, roboflow={"version": 1}
    )
    opened, findings = read(tmp_path)
    assert findings.faults == []
    assert any(
        "test: there is no '../test/images', so it is taken from another split" in line for line in findings.warnings
    )
    assert boxes(opened.splits["train"]) == [[[5, 2.5, 15, 7.5]]] * 2
    assert len(opened.splits["test"]) == 1  # of val's


def test_an_absolute_path_of_another_machine_is_taken_by_its_last_folders_with_a_warning(folder: Path) -> None:
    described(folder, train="/content/pets/images/train", val=r"C:\pets\images\val")
    opened, findings = read(folder)
    assert findings.faults == []
    assert [*map(len, opened.splits.values())] == [2, 2, 2]
    wanted = "'/content/pets/images/train' is not there; 'images/train' is taken for it"
    assert any(wanted in line for line in findings.warnings)


def test_val_may_be_called_valid_and_a_split_without_a_value_is_missing(folder: Path) -> None:
    described(folder, val=None, valid="images/val", test="")
    opened = good(folder)
    assert [*map(len, opened.splits.values())] == [2, 1, 1]
    assert "there is no test split" in opened.notes[0]


LISTS = {
    "from the list's folder": "./images/train/b.png\n./images/train/a.png\n",
    "from another machine": "/content/pets/images/train/a.png\r\n\r\nC:\\pets\\images\\train\\b.png",
    "bare": "a.png\nb.png\n",
}


@pytest.mark.parametrize("form", LISTS)
def test_a_split_may_be_a_list_file(folder: Path, form: str) -> None:
    text(folder / ("images/train/list.txt" if form == "bare" else "list.txt"), LISTS[form])
    described(folder, train="images/train/list.txt" if form == "bare" else "list.txt")
    train = good(folder).splits["train"]
    assert names(train) == ["a.png", "b.png"]
    assert [len(own) for own in boxes(train)] == [2, 2]


def test_a_split_may_be_several_folders_and_list_files(folder: Path) -> None:
    text(folder / "list.txt", "images/test/b.png\nimages/test/b.png\nimages/train/a.png\n")
    described(folder, train=["images/train", "list.txt"])
    opened, findings = read(folder)
    assert findings.faults == []
    assert names(opened.splits["train"]) == ["b.png", "a.png", "b.png"]
    assert any("2 of 5 train images are listed twice" in line for line in findings.warnings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/train/c.png", "images/train/c.png: line 2 of list.txt: there is no such image file"),
        ("/etc/passwd", "etc/passwd: line 2 of list.txt: there is no such image file; '/etc/passwd' lies outside"),
        ("../x/a.png", "list.txt: line 2: file_name must not leave the data's folder"),
        ("images/out.png", "images/out.png: line 2 of list.txt: must lie in the data's folder"),
        ("images/train", "images/train: line 2 of list.txt: not an image: it is a folder"),
        ("labels/train/a.txt", "labels/train/a.txt: line 2 of list.txt: not an image that Pillow can read"),
    ],
)
def test_a_line_of_a_list_file_that_is_no_image_of_the_folder_is_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, line: str, message: str
) -> None:
    (folder / "images" / "out.png").symlink_to(picture(tmp_path_factory.mktemp("other") / "x.png"))
    text(folder / "list.txt", f"images/train/a.png\n{line}\n")
    described(folder, train="list.txt")
    found = faults(folder)
    assert len(found) == 1
    assert message in found[0]


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


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt"])
@pytest.mark.parametrize("divided", [True, False])
def test_class_names_in_a_text_file_stand_for_a_yaml_file(folder: Path, place: str, divided: bool) -> None:
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


def test_labels_whose_classes_have_no_names_are_refused(folder: Path) -> None:
    (folder / "data.yaml").unlink()
    assert faults(folder) == [
        "data.yaml: the file: there is none, nor a classes.txt, that names the classes of labels/"
    ]
    text(folder / "classes.txt", "\ndog\n")
    assert faults(folder) == ["classes.txt: line 1: must name a class; it is empty"]
