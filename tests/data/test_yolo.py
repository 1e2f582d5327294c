"""YOLO's data.yaml and its splits: what is read of it in all the places where programs put them."""

import os
from pathlib import Path
from typing import Any

import pytest
from data.opening import faults, picture, read, text
from data.yolo_folders import BOX, boxes, described, good, names, write_splits

from rl_det.data.check import DataError
from rl_det.data.open import open_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_splits(tmp_path)


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
