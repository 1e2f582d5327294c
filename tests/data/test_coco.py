"""A COCO-format folder: what is read from it, what is refused and how it is named, what is repaired and counted."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rl_det.data import Dataset
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.check import DataError, Findings
from rl_det.data.coco import read_coco
from rl_det.data.folder import check_split
from rl_det.data.listing import Reading
from rl_det.data.open import open_data

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"
Document = dict[str, Any]


def small_document() -> Document:
    """Two images of 20 x 10, two categories, three annotations, one of them a crowd."""
    return {
        "images": [
            {"id": 5, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 3, "file_name": "sub/b.png", "width": 20, "height": 10},
        ],
        "annotations": [
            {"id": 17, "image_id": 3, "category_id": 7, "bbox": [1, 2, 3.5, 4], "area": 6.5, "iscrowd": 0},
            {
                "id": 18,
                "image_id": 5,
                "category_id": 2,
                "bbox": [0, 0, 20, 10],
                "iscrowd": 1,
                "segmentation": {"counts": [0, 200]},
            },
            {"id": 19, "image_id": 3, "category_id": 2, "bbox": [4, 4, 2, 3]},
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}],
    }


def write_folder(root: Path, document: object, split: str = "train") -> Path:
    """A folder with that JSON for one split, and the two images."""
    (root / "images" / "sub").mkdir(parents=True, exist_ok=True)
    for name, grey in (("a.png", 0), ("sub/b.png", 255)):
        Image.new("RGB", (20, 10), (grey, grey, grey)).save(root / "images" / name)
    (root / f"{split}.json").write_text(json.dumps(document))
    return root


def opened(root: Path, split: str = "train") -> AnnotatedImages:
    """That split as the folder's only one, or its first fault."""
    findings = Findings()
    read = read_coco(root / f"{split}.json", Reading(findings=findings)) or {}
    findings.settle()
    (listing,) = read.values()
    images = AnnotatedImages(listing, listing.categories, findings)
    check_split("train", images, findings)
    findings.settle()
    return images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path, small_document())


def test_a_folder_is_a_data_set_by_rising_id_of_its_images(folder: Path) -> None:
    split = opened(folder)
    assert isinstance(split, Dataset)
    assert len(split) == 2
    assert [split[index].target.image_id for index in range(2)] == [3, 5]
    assert [split[index].image.mean().item() for index in range(2)] == [1, 0]
    with pytest.raises(IndexError, match="image 2 of 2"):
        split[2]


def test_boxes_areas_and_crowds_are_the_annotations_own(folder: Path) -> None:
    split = opened(folder)
    second, first = split[0].target, split[1].target
    assert first.boxes.tolist() == [[0, 0, 20, 10]]
    assert first.iscrowd.tolist() == [True]
    assert first.area.tolist() == [200]  # the annotation gives none: the box's
    assert second.boxes.tolist() == [[1, 2, 4.5, 6], [4, 4, 6, 7]]
    assert second.area.tolist() == [6.5, 6]
    assert second.iscrowd.tolist() == [False, False]


def test_labels_count_the_categories_by_rising_id(folder: Path) -> None:
    split = opened(folder)
    assert split.category_ids == (2, 7)
    assert split.classes == ("two", "seven")
    assert split[0].target.labels.tolist() == [2, 1]


@settings(max_examples=20, deadline=None)
@given(ids=st.lists(st.integers(0, 2**53), min_size=1, max_size=12, unique=True))
def test_category_ids_come_back_from_their_labels(ids: list[int]) -> None:
    document = small_document() | {
        "categories": [{"id": category_id, "name": f"name {category_id}"} for category_id in ids],
        "annotations": [
            {"id": key, "image_id": 5, "category_id": category_id, "bbox": [0, 0, 1, 1]}
            for key, category_id in enumerate(ids)
        ],
    }
    with tempfile.TemporaryDirectory() as root:
        split = opened(write_folder(Path(root), document), "train")
        labels = split[1].target.labels.tolist()
    assert sorted(labels) == list(range(1, len(ids) + 1))
    assert [split.category_ids[label - 1] for label in labels] == ids
    assert [split.classes[label - 1] for label in labels] == [f"name {category_id}" for category_id in ids]


def test_an_image_without_annotations_has_no_target_rows(tmp_path: Path) -> None:
    document = small_document()
    del document["annotations"][1]
    target = opened(write_folder(tmp_path, document), "train")[1].target
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == target.area.shape == target.iscrowd.shape == (0,)


def test_the_size_of_an_image_may_be_left_out_of_the_json(tmp_path: Path) -> None:
    document = small_document()
    del document["images"][0]["width"], document["images"][0]["height"]
    assert opened(write_folder(tmp_path, document), "train")[1].image.shape == (3, 10, 20)


def test_boxes_that_leave_their_image_are_clipped_or_dropped_and_counted_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = small_document()
    document["annotations"] += [
        {"id": 20, "image_id": 5, "category_id": 2, "bbox": [-5, 4, 10, 20], "area": 123},
        {"id": 21, "image_id": 5, "category_id": 2, "bbox": [15, 4, 10, 3]},
        {"id": 22, "image_id": 5, "category_id": 2, "bbox": [20, 4, 10, 3]},
        {"id": 23, "image_id": 5, "category_id": 2, "bbox": [3, 4, 10, 0], "area": 0},
    ]
    split = opened(write_folder(tmp_path, document), "train")
    told = [line for line in capsys.readouterr().err.splitlines() if "repaired" in line]
    assert len(told) == 1
    assert "train.json: boxes that had to be repaired: 2 clipped, 1 dropped with nothing inside, 1" in told[0]
    assert split[1].target.boxes.tolist() == [[0, 0, 20, 10], [0, 4, 5, 10], [15, 4, 20, 7]]
    assert split[1].target.area.tolist() == [200, 123, 15]


def edited(edit: Callable[[Document], object]) -> Document:
    """The small document after one fault was put into it."""
    document = small_document()
    edit(document)
    return document


def annotation(**fields: object) -> Document:
    """The small document with fields of annotation 17 replaced."""
    return edited(lambda document: document["annotations"][0].update(fields))


def image(**fields: object) -> Document:
    """The small document with fields of image 5 replaced."""
    return edited(lambda document: document["images"][0].update(fields))


def without(kind: str, position: int, field: str) -> Document:
    """The small document with one field of one entry left out."""
    return edited(lambda document: document[kind][position].pop(field))


NAN, INFINITY = float("nan"), float("inf")
FAULTS = {
    "a list instead of an object": ([], "train.json: the file: not COCO"),
    "no images": (edited(lambda d: d.pop("images")), "train.json: images: not COCO"),
    "no annotations": (edited(lambda d: d.pop("annotations")), "train.json: annotations: not COCO"),
    "no categories": (edited(lambda d: d.pop("categories")), "train.json: categories: not COCO"),
    "images no list": (edited(lambda d: d.update(images={})), "train.json: images: not COCO"),
    "an empty split": (small_document() | {"images": [], "annotations": []}, "train.json: images: the list is empty"),
    "empty categories": (small_document() | {"categories": []}, "train.json: categories: the list is empty"),
    "a split without a box": (
        small_document() | {"annotations": []},
        "train.json: annotations: the split holds no box",
    ),
    "an entry no object": (edited(lambda d: d["images"].append(3)), "train.json: images[2]: must be an object"),
    "an image without id": (without("images", 0, "id"), "train.json: images[0]: must be an object with an integer id"),
    "an id of text": (image(id="5"), "train.json: images[0]: must be an object with an integer id"),
    "two images with one id": (image(id=3), "train.json: image 3: two of the images"),
    "two annotations with one id": (annotation(id=19), "train.json: annotation 19: two of the annotations"),
    "two categories with one id": (
        edited(lambda d: d["categories"].append({"id": 7, "name": "again"})),
        "train.json: category 7: two of the categories",
    ),
    "a category without name": (without("categories", 0, "name"), "train.json: category 7: name must be"),
    "an image without file name": (without("images", 0, "file_name"), "train.json: image 5: file_name must be"),
    "a missing category id": (without("annotations", 0, "category_id"), "train.json: annotation 17: category_id None"),
    "an unknown category": (
        annotation(category_id=99),
        "train.json: annotation 17: category_id 99 is not among the categories [2, 7]",
    ),
    "an unknown image": (annotation(image_id=4), "train.json: annotation 17: image_id 4 is not among the images"),
    "an image id of a list": (annotation(image_id=[5]), "train.json: annotation 17: image_id [5]"),
    "no box": (without("annotations", 0, "bbox"), "train.json: annotation 17: bbox must be four finite numbers"),
    "a short box": (annotation(bbox=[1, 2, 3]), "train.json: annotation 17: bbox must be four finite numbers"),
    "a long box": (annotation(bbox=[1, 2, 3, 4, 5]), "train.json: annotation 17: bbox must be four finite numbers"),
    "a box with NaN": (annotation(bbox=[NAN, 2, 3, 4]), "train.json: annotation 17: bbox must be four finite numbers"),
    "an infinite box": (annotation(bbox=[1, 2, INFINITY, 4]), "train.json: annotation 17: bbox must be four finite"),
    "a box of text": (annotation(bbox=["1", 2, 3, 4]), "train.json: annotation 17: bbox must be four finite numbers"),
    "a negative width": (annotation(bbox=[1, 2, -3, 4]), "train.json: annotation 17: bbox [x, y, width, height] must"),
    "an area of NaN": (annotation(area=NAN), "train.json: annotation 17: area must be"),
    "a negative area": (annotation(area=-1), "train.json: annotation 17: area must be"),
    "a crowd of two": (annotation(iscrowd=2), "train.json: annotation 17: iscrowd must be 0 or 1"),
    "a missing image file": (image(file_name="c.png"), "c.png: image 5 of train.json: there is no such image file"),
    "a folder as image file": (image(file_name="sub"), "sub: image 5 of train.json: not an image"),
    "another size": (image(width=21), "a.png: image 5 of train.json: train.json gives its size as (21, 10)"),
    "a size of text": (image(width="20"), "a.png: image 5 of train.json: train.json gives its size as ('20', 10)"),
}


@pytest.mark.parametrize(("document", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_refused_at_opening_naming_file_and_entry(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        opened(write_folder(tmp_path, document), "train")
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{'images': []}", b"\xff\xfe\xff", b"[" * 100_000], ids=lambda text: text[:9]
)
def test_a_file_that_is_not_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / "train.json").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.json: the file: not JSON"):
        opened(folder)


def test_a_folder_of_no_layout_is_refused_saying_what_a_folder_may_hold(folder: Path) -> None:
    (folder / "train.json").rename(folder / "data.json")
    with pytest.raises(
        DataError, match=r"must be of a layout that is known: COCO \(train\.json.* it holds data\.json, images"
    ):
        open_data(folder)


def test_a_file_that_is_no_image_is_refused_at_opening(folder: Path) -> None:
    (folder / "images" / "a.png").write_text("not an image")
    with pytest.raises(DataError, match=r"a\.png: image 5 of train\.json: not an image"):
        opened(folder)


def test_a_truncated_image_is_refused_when_it_is_decoded(folder: Path) -> None:
    path = folder / "images" / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:300])
    split = opened(folder)
    with pytest.raises(DataError, match=r"a\.png: image 5 of train\.json: the image cannot be decoded"):
        split[1]
    assert split[0].image.shape == (3, 10, 20)


def test_an_image_that_changed_its_size_since_opening_is_refused(folder: Path) -> None:
    split = opened(folder)
    Image.new("RGB", (10, 20)).save(folder / "images" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: image 5 of train\.json: .* 20 x 10"):
        split[1]


def test_the_three_splits_of_a_folder_open_together(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_folder(tmp_path, small_document(), name)
    splits = open_data(tmp_path)
    three = [splits.train, splits.val, splits.test]
    assert [split.path.name for split in three if isinstance(split, AnnotatedImages)] == [
        "train.json", "val.json", "test.json",
    ]  # fmt: skip
    assert splits["val"] is splits.val
    assert splits.category_ids == (2, 7)
    assert splits.classes == splits.test.classes
    assert splits.name == tmp_path.name
    assert open_data(tmp_path, name="cells").name == "cells"


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 7, "name": "seven"}, {"id": 2, "name": "deux"}],
        [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}, {"id": 9, "name": "nine"}],
    ],
)
def test_splits_that_disagree_in_their_categories_are_refused(tmp_path: Path, categories: list[Document]) -> None:
    for name in ("train", "val", "test"):
        write_folder(tmp_path, small_document(), name)
    write_folder(tmp_path, small_document() | {"categories": categories}, "val")
    with pytest.raises(DataError, match=r"val\.json: categories: must be those of train\.json"):
        open_data(tmp_path)


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"the blood cell images are not at {BCCD}")
def test_blood_cells_are_read_whole() -> None:
    splits = open_data(BCCD)
    three = [split for split in (splits.train, splits.val, splits.test) if isinstance(split, AnnotatedImages)]
    assert [len(split) for split in three] == [205, 87, 72]
    assert splits.train.classes == ("RBC", "WBC", "Platelets")
    sample = splits.train[0]
    assert sample.image.shape == (3, 480, 640)
    assert torch.tensor([68.0, 315.0, 286.0, 480.0]) in sample.target.boxes
    assert sum(len(split.boxes) for split in three) == 4886
