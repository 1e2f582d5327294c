"""Hugging Face's data sets: their guide's form is opened as it is, and any other form is named by split and index."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, DatasetDict, Features, List, Sequence, Value
from datasets import Dataset as Rows
from datasets import Image as ImageFeature
from PIL import Image

from rl_det.data import Dataset
from rl_det.data.open import open_data

CATEGORY = ClassLabel(names=["cat", "dog"])
OBJECTS: dict[str, Any] = {
    "id": List(Value("int64")),
    "area": List(Value("int64")),
    "bbox": List(List(Value("float32"), 4)),
    "category": List(CATEGORY),
}
THINGS = {"id": [7, 8], "area": [30, 16], "bbox": [[1.0, 2.0, 8.0, 6.0], [0.0, 0.0, 4.0, 4.0]], "category": [1, 0]}
NONE: dict[str, list[Any]] = {name: [] for name in THINGS}


def grey(value: int = 51) -> Image.Image:
    return Image.new("L", (20, 10), value)


def rows(
    objects: list[Any] | None = None,
    *,
    feature: Any = None,
    image: Any = None,
    **columns: tuple[list[Any], Any],
) -> Rows:
    """A data set of images of 20 x 10 with these objects; other columns come with their feature."""
    objects = [THINGS, NONE] if objects is None else objects
    features = {"image": image or ImageFeature(), "objects": OBJECTS if feature is None else feature}
    content: dict[str, list[Any]] = {"image": [grey() for _ in objects], "objects": objects}
    for name, (values, own) in columns.items():
        content[name], features[name] = values, own
    return Rows.from_dict(content, Features(features))


def test_classes_give_the_order_and_leave_each_box_its_name() -> None:
    plain = open_data(DatasetDict(train=rows(), validation=rows(), test=rows()))
    other = open_data(DatasetDict(train=rows(), validation=rows(), test=rows()), classes=["dog", "cat"])
    assert (other.classes, other.category_ids) == (("dog", "cat"), (1, 0))
    for splits in (plain, other):
        assert [splits.classes[label - 1] for label in splits.train[0].target.labels.tolist()] == ["dog", "cat"]
    with pytest.raises(ValueError, match=r"classes must be the names of the ClassLabel in any order, \['cat', 'dog'\]"):
        open_data(DatasetDict(train=rows(), validation=rows(), test=rows()), classes=["dog", "cow"])


def test_a_dataset_dict_is_three_splits_with_the_names_of_its_class_label() -> None:
    splits = open_data(DatasetDict(train=rows(), validation=rows(), test=rows()), name="pets")
    assert (splits.classes, splits.category_ids, splits.name) == (("cat", "dog"), (0, 1), "pets")
    for split in (splits.train, splits.val, splits.test):
        assert isinstance(split, Dataset)
        assert len([*split]) == len(split) == 2
        target = split[0].target
        torch.testing.assert_close(split[0].image, torch.full((3, 10, 20), 0.2))
        assert target.boxes.tolist() == [[1, 2, 9, 8], [0, 0, 4, 4]]
        assert target.labels.tolist() == [2, 1]
        assert target.area.tolist() == [30, 16]
        assert target.iscrowd.tolist() == [False, False]
        assert [split[place].target.image_id for place in range(2)] == [0, 1]
        assert split[1].target.boxes.shape == (0, 4)
        with pytest.raises(IndexError, match=r"index must lie in 0\.\.1; got 2"):
            split[2]


def test_three_data_sets_open_as_well_and_a_mapping_of_them() -> None:
    for source in (
        (rows(), rows(), rows()),
        [rows()] * 3,
        {"train": rows(), "val": rows(), "test": rows(), "extra": 1},
    ):
        assert open_data(source).test[0].target.labels.tolist() == [2, 1]


FORMS: dict[str, Callable[[], Rows]] = {
    "a Sequence of a dictionary": lambda: rows(
        feature=Sequence({"bbox": Sequence(Value("float32"), 4), "category": CATEGORY}),
        objects=[{name: THINGS[name] for name in ("bbox", "category")}],
    ),
    "a list of dictionaries": lambda: rows(
        feature=List({"bbox": List(Value("float64")), "category": CATEGORY}),
        objects=[
            [
                {"bbox": box, "category": category}
                for box, category in zip(THINGS["bbox"], THINGS["category"], strict=True)
            ],
            [],
        ],
    ),
    "tensors": lambda: rows().with_format("torch"),
    "arrays": lambda: rows([THINGS]).with_format("numpy"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_lists_is_read(form: str) -> None:
    splits = open_data([FORMS[form](), rows(), rows()])
    assert splits.classes == ("cat", "dog")
    target = splits.train[0].target
    assert target.boxes.tolist() == [[1, 2, 9, 8], [0, 0, 4, 4]]
    assert target.labels.tolist() == [2, 1]
    assert target.area.tolist() == ([48, 16] if "dictionar" in form else [30, 16])


@pytest.mark.parametrize("name", ["iscrowd", "is_crowd"])
def test_crowds_and_image_ids_are_the_data_sets_own(name: str) -> None:
    feature = OBJECTS | {name: List(Value("bool"))}
    own = rows([THINGS | {name: [True, False]}], feature=feature, image_id=([77], Value("int64")))
    target = open_data([own, own, own]).train[0].target
    assert target.iscrowd.tolist() == [True, False]
    assert target.image_id == 77


def test_boxes_are_clipped_to_their_image_and_those_without_a_size_are_left_out() -> None:
    box = [[15.0, 5.0, 10.0, 10.0], [30.0, 0.0, 5.0, 5.0], [3.0, 3.0, 0.0, 5.0]]
    feature = {name: OBJECTS[name] for name in ("bbox", "category")}
    target = open_data([rows([{"bbox": box, "category": [0, 1, 1]}], feature=feature)] * 3).train[0].target
    assert target.boxes.tolist() == [[15, 5, 20, 10]]
    assert target.area.tolist() == [25]
    assert target.labels.tolist() == [1]


def test_boxes_that_look_like_corners_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    own = rows([THINGS | {"bbox": [[10.0, 5.0, 19.0, 9.0], [12.0, 2.0, 20.0, 10.0]]}])
    open_data([rows(), own, rows()])
    told = "".join(capsys.readouterr())
    assert "warning: val: 2 of the first 2 boxes leave their image" in told
    assert "x1, y1, x2, y2 by all appearance" in told
    assert "train: " not in told


def numbered(**changes: Any) -> Rows:
    """A data set whose categories are plain numbers."""
    return rows([THINGS | changes], feature=OBJECTS | {"category": List(Value("int64"))})


def test_classes_name_plain_numbers() -> None:
    splits = open_data([numbered()] * 3, classes=["ant", "bee"])
    assert splits.classes == ("ant", "bee")
    assert splits.train[0].target.labels.tolist() == [2, 1]


def small(**changes: Any) -> Rows:
    """A data set whose second row has other objects, in features wide enough for all of them."""
    feature = {"bbox": List(List(Value("float32"))), "category": List(Value("float32")), "area": List(Value("float32"))}
    fields = {"bbox": [[1.0, 2.0, 8.0, 6.0]], "category": [0], "area": [1.0]}
    return rows([fields, fields | changes], feature=feature)


NAN = float("nan")
WRONG: dict[str, tuple[Callable[[], Rows], str]] = {
    "three numbers": (lambda: small(bbox=[[1.0, 2.0, 3.0]]), r"bbox must be .*; got the shape \(1, 3\)"),
    "ragged boxes": (lambda: small(bbox=[[1.0, 2.0, 3.0, 4.0], [1.0]]), "bbox must be numbers"),
    "no number": (lambda: small(bbox=[[1.0, 2.0, 3.0, None]]), "bbox must be numbers"),
    "a negative size": (lambda: small(bbox=[[5.0, 5.0, -2.0, 2.0]]), "bbox must be finite .*, no size negative"),
    "not finite": (lambda: small(bbox=[[5.0, 5.0, NAN, 2.0]]), "bbox must be finite"),
    "a class too many": (lambda: small(category=[2]), r"category must be numbers of the classes, 0\.\.1; got \[2.0\]"),
    "a class below": (lambda: small(category=[-1]), "category must be numbers of the classes"),
    "half a class": (lambda: small(category=[0.5]), "category must be numbers of the classes"),
    "no class": (lambda: small(category=[None]), "category must be numbers"),
    "classes too few": (lambda: small(category=[]), "each of the 1 boxes must have a category"),
    "areas too few": (lambda: small(area=[]), "each of the 1 boxes must have a category, and an area"),
    "a negative area": (lambda: small(area=[-1.0]), "area must be finite, not negative"),
    "no areas": (lambda: small(area=None), "area must be numbers"),
    "no objects": (lambda: rows([THINGS, None], feature=OBJECTS), "objects must be a dictionary of lists; got None"),
}


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_objects_of_another_form_are_named_by_split_and_index_when_the_data_is_opened(fault: str, split: str) -> None:
    make, message = WRONG[fault]
    fair = numbered()
    with pytest.raises(ValueError, match=rf"^{split}\[1\]: {message}"):
        open_data([make() if split == name else fair for name in ("train", "val", "test")], classes=["cat", "dog"])


class Stand:
    """The least that has the face of a `datasets.Dataset`."""

    def __init__(self, *entries: dict[str, Any], names: tuple[str, ...] = ("cat", "dog")) -> None:
        self.entries = entries
        self.column_names = list(entries[0]) if entries else ["image", "objects"]
        self.features = {"objects": {"bbox": [None], "category": [ClassLabel(names=list(names))]}}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: Any) -> Any:
        return [entry[key] for entry in self.entries] if isinstance(key, str) else self.entries[key]


def entry(**changes: Any) -> dict[str, Any]:
    return {"image": grey(), "objects": THINGS} | changes


DECODED: dict[str, tuple[Any, str]] = {
    "bytes": (entry(image={"bytes": b"x", "path": None}), "the image must be a tensor .* or a PIL image; got dict"),
    "two channels": (entry(image=np.zeros((10, 20, 2), np.uint8)), r"the image must be a tensor"),
    "an id in words": (entry(image_id="a.png"), "image_id must be numbers; got 'a.png'"),
    "half an id": (entry(image_id=0.5), "image_id must be one whole number; got 0.5"),
    "two ids": (entry(image_id=[1, 2]), "image_id must be one whole number"),
}


@pytest.mark.parametrize("fault", DECODED)
def test_an_image_or_id_of_another_form_is_named_by_split_and_index(fault: str) -> None:
    wrong, message = DECODED[fault]
    fair = Stand(entry())

    def first() -> Any:
        return open_data([fair, Stand(entry(), wrong), fair]).val[1]

    with pytest.raises(ValueError, match=rf"^val\[1\]: {message}"):
        first()


def test_an_image_that_cannot_be_decoded_is_named() -> None:
    damaged = Rows.from_dict({"image": [{"bytes": b"no image", "path": None}], "objects": [THINGS]}, rows().features)
    with pytest.raises(ValueError, match=r"^test\[0\]: the image cannot be decoded"):
        open_data([rows(), rows(), damaged])


OPENING: dict[str, tuple[Callable[[], Any], str]] = {
    "no val": (
        lambda: DatasetDict(train=rows(), test=rows()),
        r"there is no val among \['test', 'train'\]; divide one by",
    ),
    "one data set": (rows, "data must be three data sets, .* or a DatasetDict; got one; divide it by"),
    "another column": (
        lambda: [rows(), rows().rename_column("objects", "boxes"), rows()],
        r"val: must have the columns 'image' and 'objects'; it lacks \['objects'\] among \['image', 'boxes'\]",
    ),
    "mixed": (lambda: [rows(), [1], rows()], "val: must be a datasets.Dataset as the others; got list"),
    "empty": (lambda: [rows(), rows(), rows([])], "test: must hold one image at least; it is empty"),
    "no names": (lambda: [numbered()] * 3, "train: the category of objects must be a ClassLabel.*; else give classes="),
    "classes that differ": (
        lambda: [Stand(entry()), Stand(entry()), Stand(entry(), names=("dog", "cat"))],
        "the splits must agree in their classes",
    ),
    "no category": (
        lambda: [rows([{"bbox": THINGS["bbox"]}], feature={"bbox": OBJECTS["bbox"]})] * 3,
        "train: the category of objects must be a ClassLabel",
    ),
    "a list of numbers": (
        lambda: [Stand(entry(objects=[1, 2]))] * 3,
        r"train\[0\]: objects must be a dictionary of lists; got \[1, 2\]",
    ),
    "a field that is missing": (
        lambda: [Stand(entry(objects={"bbox": []}))] * 3,
        r"train\[0\]: objects must have 'bbox' and 'category'; it lacks \['category'\]",
    ),
    "objects that differ": (
        lambda: [Stand(entry(objects=[{"bbox": [1, 2, 3, 4], "category": 0}, {"bbox": [1, 2, 3, 4]}]))] * 3,
        r"train\[0\]: all objects must have the same fields",
    ),
}


@pytest.mark.parametrize("fault", OPENING)
def test_data_of_another_form_is_refused_in_one_sentence(fault: str) -> None:
    make, message = OPENING[fault]
    with pytest.raises(ValueError, match=message) as refused:
        inspect.unwrap(open_data)(make())  # the tests' type checker would be first
    assert "\n" not in str(refused.value)
