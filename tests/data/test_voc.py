"""Pascal VOC's layout: its lists and folders, corners counted from 1 or from 0, difficult objects, and what is refused."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from data.opening import faults, picture, read, sound, text

from rl_det.data.annotated import AnnotatedImages
from rl_det.data.check import DataError, Findings
from rl_det.data.folder import Opened, read_folder
from rl_det.data.open import open_data

Corners = tuple[object, object, object, object]


def thing(name: str = "cat", corners: Corners = (3, 2, 10, 8), extra: str = "") -> str:
    """One <object>."""
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def document(*objects: str, filename: str = "", size: tuple[object, object] = (20, 10)) -> str:
    """One annotation file."""
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{sides}{''.join(objects)}</annotation>"


def lists(root: Path, **names: Sequence[str]) -> None:
    for name, lines in names.items():
        text(root / "ImageSets" / "Main" / f"{name}.txt", "\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """VOC's own layout with six images in three splits."""
    for name in "abcdef":
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        text(tmp_path / "Annotations" / f"{name}.xml", document(thing(), thing("dog", (1, 1, 20, 10))))
    lists(tmp_path, train=["a", "b"], val=["c", "d"], test=["f", "e"])
    return tmp_path


def good(path: Path, **options: Any) -> Opened:
    """What is read without a fault."""
    return sound(path, "Pascal VOC", **options)


def boxes(images: AnnotatedImages, index: int = 0) -> list[Any]:
    return images.target(index).boxes.tolist()


def names(opened: Opened) -> dict[str, str]:
    return {split: "".join(image.file.stem for image in images.images) for split, images in opened.splits.items()}


def test_a_folder_of_voc_is_three_splits_with_corners_from_zero(folder: Path) -> None:
    splits = open_data(folder)
    assert (splits.classes, splits.category_ids) == (("cat", "dog"), (1, 2))
    for split in (splits.train, splits.val, splits.test):
        target = split[1].target
        assert target.image_id == 2
        assert target.boxes.tolist() == [[2, 1, 10, 8], [0, 0, 20, 10]]
        assert target.labels.tolist() == [1, 2]
        assert target.area.tolist() == [56, 200]
        assert target.iscrowd.tolist() == [False, False]
    assert names(good(folder)) == {"train": "ab", "val": "cd", "test": "ef"}


@pytest.mark.parametrize(
    ("given", "train", "val"),
    [
        ({"trainval": "abcd", "test": "ef"}, 3, 1),
        ({"trainval": "abcd", "train": "ab", "test": "ef"}, "ab", "cd"),
        ({"trainval": "abcd", "val": "cd", "test": "ef"}, "ab", "cd"),
        ({"trainval": "abcd", "train": "a", "val": "b", "test": "ef"}, "a", "b"),
        ({"train": "abcd", "test": "ef"}, 3, 1),
    ],
)
def test_trainval_gives_what_train_or_val_lack(folder: Path, given: dict[str, str], train: Any, val: Any) -> None:
    for file in (folder / "ImageSets" / "Main").iterdir():
        file.unlink()
    lists(folder, **given)
    opened = good(folder)
    found = names(opened)
    assert found["test"] == "ef"
    if isinstance(train, str):
        assert (found["train"], found["val"]) == (train, val)
    else:
        assert (len(found["train"]), len(found["val"])) == (train, val)
        assert "there is no val split" in opened.notes[0]


def test_lines_of_a_list_may_have_a_second_column_a_suffix_and_spaces_in_a_name(folder: Path) -> None:
    picture(folder / "JPEGImages" / "a cat.jpg")
    text(folder / "Annotations" / "a cat.xml", document(thing()))
    lists(folder, train=["a  1", "b.jpg -1", "a cat", "", "a"], train_cat=["nothing"])
    opened, findings = read(folder)
    assert findings.faults == []
    assert [image.file.stem for image in opened.splits["train"].images] == ["a cat", "a", "b"]
    assert any("1 lines name an image that another line names too" in line for line in findings.warnings)


@pytest.mark.parametrize("kind", ["no lists", "default"])
def test_without_lists_all_images_are_divided(folder: Path, kind: str) -> None:
    for file in (folder / "ImageSets" / "Main").iterdir():
        file.unlink()
    if kind == "default":
        lists(folder, default="abcde")
    opened = good(folder)
    assert sum(map(len, opened.splits.values())) == (5 if kind == "default" else 6)
    assert len(opened.notes) == 2


def test_files_may_lie_beside_the_images_of_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in ("a_jpg.rf.01", "b.v2"):
            picture(tmp_path / split / f"{name}.jpg")
            text(tmp_path / split / f"{name}.xml", document(thing(split), filename="other.jpg"))
    opened = good(tmp_path)
    assert [*map(len, opened.splits.values())] == [2, 2, 2]
    assert opened.categories == {1: "test", 2: "train", 3: "valid"}, "the splits share the classes of all"
    assert opened.splits["val"].target(0).labels.tolist() == [3]


PLACES = {
    "one folder": ("a.xml", "a.png"),
    "capital suffixes": ("a.xml", "a.PNG"),
    "Kaggle": ("annotations/a.xml", "images/a.png"),
    "subfolders": ("Annotations/x/a.xml", "JPEGImages/x/a.png"),
    "split folders": ("train/annotations/a.xml", "train/images/a.png"),
    "beside": ("Annotations/a.xml", "Annotations/a.png"),
    "the name in the file": ("Annotations/1.xml", "JPEGImages/a.png"),
    "the name in the file, in no folder that is known": ("Annotations/1.xml", "a.png"),
}


@pytest.mark.parametrize("place", PLACES)
def test_images_are_found_where_programs_put_them(tmp_path: Path, place: str) -> None:
    annotation, image = PLACES[place]
    for name in "abc":
        picture(tmp_path / image.replace("a.", f"{name}."))
        file = annotation.replace("a.", f"{name}.").replace("1.", f"{name}1.")
        text(tmp_path / file, document(thing(), filename=rf"C:\data\{name}.png"))
    opened = good(tmp_path)
    assert [*map(len, opened.splits.values())] == [1, 1, 1]


def test_xml_files_of_other_programs_are_of_no_layout(tmp_path: Path) -> None:
    text(tmp_path / "pom.xml", "<project/>")
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="must be of a layout that is known"):
        read(tmp_path)


@pytest.mark.parametrize("corners", [(0, 4, 9, 8), (4, 0, 9, 8), (0.4, 4, 9, 8), (-2, 4, 9, 8)])
@pytest.mark.parametrize("name", ["a", "f"])
def test_a_corner_below_1_anywhere_means_that_all_are_counted_from_0(folder: Path, name: str, corners: Corners) -> None:
    text(folder / "Annotations" / f"{name}.xml", document(thing(), thing("dog", corners)))
    opened, findings = read(folder)
    assert [line for line in findings.warnings if "below 1" in line] == [
        f"{folder}: some corners lie below 1, so all are taken as counted from 0, not from 1 as in VOC"
    ]
    assert boxes(opened.splits["val"]) == [[3, 2, 10, 8], [1, 1, 20, 10]]


def test_corners_may_be_fractions(folder: Path) -> None:
    text(folder / "Annotations" / "a.xml", document(thing(corners=("3.5", " 2.25\n", "1e1", "8."))))
    assert boxes(good(folder).splits["train"]) == [[2.5, 1.25, 10, 8]]


def test_a_box_of_one_pixel_has_a_size(folder: Path) -> None:
    text(folder / "Annotations" / "a.xml", document(thing(corners=(5, 5, 5, 5))))
    assert boxes(good(folder).splits["train"]) == [[4, 4, 5, 5]]


@pytest.mark.parametrize("keep", [False, True])
def test_detections_of_a_difficult_object_count_neither_way_unless_it_is_kept(folder: Path, keep: bool) -> None:
    extra = "<difficult>1</difficult><truncated>1</truncated><pose>Left</pose>"
    text(folder / "Annotations" / "a.xml", document(thing(extra=extra), thing("dog", extra="<difficult>0</difficult>")))
    target = open_data(folder, keep_difficult=keep).train[0].target
    assert target.iscrowd.tolist() == [not keep, False]


def test_a_class_without_an_object_may_be_named_as_no_file_lists_them(folder: Path) -> None:
    opened = open_data(folder, classes=["dog", "bird", "cat"])
    assert opened.classes == ("dog", "bird", "cat")
    assert len(set(opened.category_ids)) == 3
    assert [opened.classes[label - 1] for label in opened.train[0].target.labels.tolist()] == ["cat", "dog"]
    with pytest.raises(DataError, match="classes: must be the data's own names"):
        open_data(folder, classes=["dog", "bird"])


def test_of_an_image_and_its_mask_the_file_name_says_which_is_meant(folder: Path) -> None:
    picture(folder / "JPEGImages" / "a.bmp")
    text(folder / "Annotations" / "a.xml", document(thing(), filename="a.jpg"))
    assert good(folder).splits["train"].images[0].file.name == "a.jpg"
    text(folder / "Annotations" / "a.xml", document(thing(), filename="somewhere\\a.bmp"))
    assert good(folder).splits["train"].images[0].file.name == "a.bmp"
    text(folder / "Annotations" / "a.xml", document(thing()))
    with pytest.raises(DataError, match=r"a\.xml: filename: must be one of a\.bmp, a\.jpg; got ''"):
        open_data(folder)


def test_parts_of_an_object_are_not_objects(folder: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></part>"
    text(folder / "Annotations" / "a.xml", document(thing(extra=part)))
    opened = good(folder)
    assert opened.categories == {1: "cat", 2: "dog"}
    assert boxes(opened.splits["train"]) == [[2, 1, 10, 8]]


def test_a_file_without_objects_is_an_image_without_boxes(folder: Path) -> None:
    text(folder / "Annotations" / "a.xml", document())
    assert boxes(good(folder).splits["train"]) == []


@pytest.mark.parametrize("size", [(0, 0), ("", ""), (0, 10), ("20.0", "10")])
def test_a_size_of_zero_is_none(folder: Path, size: tuple[object, object]) -> None:
    text(folder / "Annotations" / "a.xml", document(thing(), size=size))
    assert len(boxes(good(folder).splits["train"])) == 1


def test_a_size_is_checked_against_the_image(folder: Path) -> None:
    text(folder / "Annotations" / "a.xml", document(thing(), size=(10, 20)))
    expected = (
        "JPEGImages/a.jpg: line 1 of train.txt: train.txt gives its size as (10, 20), it is (20, 10) (width, height)"
    )
    assert faults(folder) == [expected]


def test_boxes_that_leave_their_image_are_clipped_and_named_when_that_is_refused(folder: Path) -> None:
    text(
        folder / "Annotations" / "a.xml",
        document(thing(corners=(11, 2, 25, 8)), thing(corners=(9, 5, 9, 7))),
    )
    opened, findings = read(folder)
    assert findings.faults == []
    assert boxes(opened.splits["train"]) == [[10, 1, 20, 8], [8, 4, 9, 7]]
    strict = Findings(strict=True)
    read_folder(folder, strict)
    assert "train.txt: Annotations/a.xml: object 1: a box that would be clipped" in str(strict.faults[0])


OBJECTS: dict[str, tuple[str, str]] = {
    "no name": (thing(""), "must have a <name>"),
    "no box": ("<object><name>cat</name></object>", "must have one <bndbox>; got 0"),
    "a turned box": ("<object><name>cat</name><robndbox/></object>", "must have one <bndbox>; got 0"),
    "two boxes": (thing(extra="<bndbox/>"), "must have one <bndbox>; got 2"),
    "a side too few": (thing(corners=(3, 2, 10, "")), "<bndbox> must have xmin, ymin, xmax and ymax; got"),
    "words": (thing(corners=(3, 2, 10, "x")), "must be a number; got 'x'"),
    "not a number": (thing(corners=(3, "nan", 10, 8)), "must be a finite number; got 'nan'"),
    "infinite": (thing(corners=(3, 2, "1e999", 8)), "must be a finite number; got '1e999'"),
    "underscores": (thing(corners=(3, 2, "1_0", 8)), "must be a finite number; got '1_0'"),
    "swapped": (thing(corners=(10, 2, 3, 8)), "xmax and ymax must not be less than xmin and ymin; got"),
    "difficult in words": (
        thing(extra="<difficult>Unspecified</difficult>"),
        "<difficult> must be 0 or 1; got 'Unspecified'",
    ),
}


@pytest.mark.parametrize("fault", OBJECTS)
def test_an_object_with_a_fault_is_named_and_the_others_are_read(folder: Path, fault: str) -> None:
    content, message = OBJECTS[fault]
    text(folder / "Annotations" / "a.xml", document(thing(), content, thing("dog")))
    opened, findings = read(folder)
    assert len(findings.faults) == 1
    assert str(findings.faults[0]).startswith(f"{folder}/Annotations/a.xml: object 2: {message}")
    assert len(boxes(opened.splits["train"])) == 2


BOMB = '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{f"&{other};" * 10}">' for other, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES: dict[str, tuple[str, str]] = {
    "no XML": ("<annotation>", "the file: not XML that can be read"),
    "nothing": ("", "the file: not XML that can be read"),
    "a bomb": (BOMB + "]><annotation>&i;</annotation>", "the file: not XML that can be read (EntitiesForbidden"),
    "a file of another": (
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>',
        "the file: not XML that can be read (EntitiesForbidden",
    ),
    "an encoding that is unknown": (
        '<?xml version="1.0" encoding="x-y"?><annotation/>',
        "the file: not XML that can be read",
    ),
    "another root": ("<annotations/>", "the file: not Pascal VOC: must hold one <annotation>; got <annotations>"),
    "a size in words": (document(size=("wide", 10)), "size: must be a number; got 'wide'"),
    "half a size": (document(size=(20.5, 10)), "size: must be two counts; got"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_read(folder: Path, fault: str) -> None:
    content, message = FILES[fault]
    text(folder / "Annotations" / "a.xml", content)
    opened, findings = read(folder)
    assert len(findings.faults) == 1
    assert str(findings.faults[0]).startswith(f"{folder}/Annotations/a.xml: {message}")
    assert names(opened)["train"] == "b"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.mkdir(), "must be a regular file"),
        (os.mkfifo, "must be a regular file"),
        (lambda file: file.symlink_to("/etc/hostname"), "must be a file in the data's folder"),
        (lambda file: file.symlink_to("nowhere"), "must be a file in the data's folder"),
        (lambda file: file.symlink_to(file.name), "must be a file in the data's folder"),
        (lambda file: file.write_text(" " * (2**24 + 1)), "must hold at most"),
    ],
)
@pytest.mark.parametrize("file", ["Annotations/a.xml", "ImageSets/Main/train.txt"])
def test_what_is_no_file_of_the_folder_is_not_read(
    folder: Path, make: Callable[[Path], object], message: str, file: str
) -> None:
    (folder / file).unlink()
    make(folder / file)
    if message == "must hold at most" and file.endswith(".txt"):  # lists may be longer
        message = "names no image that can be used"
    assert faults(folder)[0].startswith(f"{file}: the file: {message}")


def test_a_line_without_an_annotation_file_is_named(folder: Path) -> None:
    lists(folder, train=["a", "../Annotations/b", "nothing 1"])
    assert faults(folder) == [
        "ImageSets/Main/train.txt: line 2: there is no annotation file '../Annotations/b.xml' in Annotations",
        "ImageSets/Main/train.txt: line 3: there is no annotation file 'nothing.xml' in Annotations",
    ]


@pytest.mark.parametrize(
    ("filename", "message"),
    [
        ("", "Annotations/a.xml: filename: there is no image a.* in JPEGImages or images or beside it"),
        ("x.jpg", "JPEGImages/x.jpg: line 1 of train.txt: there is no such image file"),
        ("../../x.jpg", "Annotations/a.xml: line 1 of train.txt: file_name must not leave the data's folder"),
        ("b.jpg", "Annotations/b.xml: filename: a.xml is of the same image, b.jpg"),
    ],
)
def test_an_annotation_file_without_an_image_of_its_own_is_named(folder: Path, filename: str, message: str) -> None:
    (folder / "JPEGImages" / "a.jpg").unlink()
    text(folder / "Annotations" / "a.xml", document(thing(), filename=filename))
    found = faults(folder)
    assert len(found) == 1
    assert found[0].startswith(message)


def test_an_image_that_lies_outside_is_not_read(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "JPEGImages" / "a.jpg").unlink()
    (folder / "JPEGImages" / "a.jpg").symlink_to(picture(tmp_path_factory.mktemp("other") / "a.jpg"))
    assert faults(folder)[0].startswith("JPEGImages/a.jpg: line 1 of train.txt: must lie in the data's folder")


def test_test_images_of_another_folder_need_not_show_every_class(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    picture(other / "JPEGImages" / "g.jpg")
    text(other / "Annotations" / "g.xml", document(thing("dog")))
    opened = open_data(folder, test=other)
    assert opened.classes == ("cat", "dog")
    assert opened.test[0].target.labels.tolist() == [2]
