"""One data set written in COCO's, YOLO's and Pascal VOC's form is read as the same images, boxes, labels, areas and crowds."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from rl_det.data import Split
from rl_det.data.check import Findings
from rl_det.data.coco import shape_of
from rl_det.data.folder import read_folder
from rl_det.errors import UserError

CLASSES = ("cat", "dog", "fox")
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Thing(NamedTuple):
    """One object: its class, its corners in whole pixels from 0, and whether it is a crowd (difficult, in VOC)."""

    name: str
    corners: tuple[int, int, int, int]
    is_crowd: bool


class Picture(NamedTuple):
    """One image with its objects."""

    name: str
    size: tuple[int, int]
    things: list[Thing]


Pictures = dict[Split, list[Picture]]


@st.composite
def pictures(draw: st.DrawFn, crowds: bool) -> Pictures:
    """Three splits; the first image of each holds every class once, as VOC has no list of classes."""
    splits: Pictures = {}
    for split in SPLITS:
        splits[split] = []
        for number in range(draw(st.integers(1, 3))):
            width, height = draw(st.integers(4, 40)), draw(st.integers(4, 40))
            things = []
            names = [*CLASSES] if number == 0 else []
            for name in names + draw(st.lists(st.sampled_from(CLASSES), max_size=3)):
                left, top = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
                right, bottom = draw(st.integers(left + 2, width)), draw(st.integers(top + 2, height))
                things.append(Thing(name, (left, top, right, bottom), crowds and not names and draw(st.booleans())))
            splits[split].append(
                Picture(f"{split}{number}{draw(st.sampled_from(['', '-1', '.b', ' c']))}", (width, height), things)
            )
    return splits


def draw_image(path: Path, picture: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", picture.size, hash(picture.name) % 256).save(path)


def write_coco(root: Path, splits: Pictures) -> None:
    for split, own in splits.items():
        annotations: list[dict[str, Any]] = []
        for image_id, picture in enumerate(sorted(own, key=lambda picture: f"{picture.name}.png"), start=1):
            draw_image(root / "images" / f"{picture.name}.png", picture)
            for name, (left, top, right, bottom), crowd in picture.things:
                box = [left, top, right - left, bottom - top]
                category = CLASSES.index(name) + 1
                own_id = len(annotations)
                annotations.append(
                    {"id": own_id, "image_id": image_id, "category_id": category, "bbox": box, "iscrowd": int(crowd)}
                )
        names = sorted(f"{picture.name}.png" for picture in own)
        document = {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names, start=1)],
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)],
        }
        (root / f"{split}.json").write_text(json.dumps(document))


def write_yolo(root: Path, splits: Pictures) -> None:
    document = {split: f"images/{split}" for split in splits} | {"names": [*CLASSES], "nc": len(CLASSES)}
    (root / "data.yaml").write_text(yaml.safe_dump(document))
    for split, own in splits.items():
        for picture in own:
            draw_image(root / "images" / split / f"{picture.name}.png", picture)
            width, height = picture.size
            lines = [
                f"{CLASSES.index(name)} {(left + right) / 2 / width} {(top + bottom) / 2 / height} "
                f"{(right - left) / width} {(bottom - top) / height}\n"
                for name, (left, top, right, bottom), _ in picture.things
            ]
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            (root / "labels" / split / f"{picture.name}.txt").write_text("".join(lines))


def write_voc(root: Path, splits: Pictures) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, own in splits.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{picture.name}\n" for picture in own))
        for picture in own:
            draw_image(root / "JPEGImages" / f"{picture.name}.png", picture)
            (root / f"Annotations/{picture.name}.xml").write_text(
                f"<annotation>{''.join(map(as_xml, picture.things))}</annotation>"
            )


def as_xml(thing: Thing) -> str:
    (left, top, right, bottom), difficult = thing.corners, int(thing.is_crowd)
    sides = f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{thing.name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


WRITERS: dict[str, Callable[[Path, Pictures], None]] = {"COCO": write_coco, "YOLO": write_yolo, "Pascal VOC": write_voc}


def found(layout: str, splits: Pictures) -> dict[Split, list[Any]]:
    """All that is read of the data set in this layout."""
    with tempfile.TemporaryDirectory() as root:
        WRITERS[layout](Path(root), splits)
        findings = Findings()
        opened = read_folder(Path(root), findings)
        assert (opened.layout, findings.faults, findings.repairs) == (layout, [], {})
        assert not [line for line in findings.warnings if "flatter" not in line]
        first = min(opened.categories)
        assert opened.categories == dict(enumerate(CLASSES, start=first))
        assert first == (0 if layout == "YOLO" else 1)
        return {
            split: [
                (
                    image.file.name,
                    image.image_id,
                    images[place].image.shape,
                    *(column.tolist() for column in (target.boxes, target.labels, target.area, target.iscrowd)),
                )
                for place, image in enumerate(images.images)
                for target in [images.target(place)]
            ]
            for split, images in opened.splits.items()
        }


def expected(splits: Pictures) -> dict[Split, list[Any]]:
    """The same, from what was written."""
    return {
        split: [
            (
                f"{picture.name}.png",
                number,
                (3, *picture.size[::-1]),
                [[float(side) for side in thing.corners] for thing in picture.things],
                [CLASSES.index(thing.name) + 1 for thing in picture.things],
                [float((right - left) * (bottom - top)) for _, (left, top, right, bottom), _ in picture.things],
                [thing.is_crowd for thing in picture.things],
            )
            for number, picture in enumerate(sorted(own, key=lambda picture: f"{picture.name}.png"), start=1)
        ]
        for split, own in splits.items()
    }


def assert_same(one: dict[Split, list[Any]], other: dict[Split, list[Any]]) -> None:
    assert [*one] == [*other]
    for split in one:
        assert [row[:3] for row in one[split]] == [row[:3] for row in other[split]]
        for row, twin in zip(one[split], other[split], strict=True):
            for mine, theirs in zip(row[3:], twin[3:], strict=True):
                assert len(mine) == len(theirs)
                for value, wanted in zip(mine, theirs, strict=True):
                    assert value == pytest.approx(wanted, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(splits=pictures(crowds=False))
def test_all_layouts_are_read_alike(splits: Pictures) -> None:
    for layout in WRITERS:
        assert_same(found(layout, splits), expected(splits))


@settings(max_examples=25, deadline=None)
@given(splits=pictures(crowds=True))
def test_a_difficult_object_of_voc_is_a_crowd_of_coco(splits: Pictures) -> None:
    for layout in ("COCO", "Pascal VOC"):
        assert_same(found(layout, splits), expected(splits))


POLYGONS = [
    [0.1, 0.1, 0.8, 0.2, 0.5, 0.9],
    [0.2, 0.2, 0.7, 0.2, 0.7, 0.7, 0.2, 0.7],
    [0.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.3, 0.5],
]


def test_polygons_of_yolo_and_of_coco_have_the_same_boxes_and_areas(tmp_path: Path) -> None:
    things = [Thing("cat", (0, 0, 40, 20), False)]
    splits: Pictures = {split: [Picture(f"{split}0", (40, 20), things)] for split in SPLITS}
    targets = []
    for layout in ("COCO", "YOLO"):
        root = tmp_path / layout
        root.mkdir()
        WRITERS[layout](root, splits)
        if layout == "YOLO":
            lines = [" ".join(map(str, [0, *polygon])) + "\n" for polygon in POLYGONS]
            (root / "labels/train/train0.txt").write_text("".join(lines))
        else:
            document = json.loads((root / "train.json").read_text())
            document["annotations"] = [
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": 1,
                    "segmentation": [[share * (20 if place % 2 else 40) for place, share in enumerate(polygon)]],
                }
                for number, polygon in enumerate(POLYGONS)
            ]
            document["images"][0] |= {"width": 40, "height": 20}
            (root / "train.json").write_text(json.dumps(document))
        findings = Findings()
        targets.append(read_folder(root, findings).splits["train"].target(0))
        assert findings.faults == []
    for mine, theirs in zip(targets[0].boxes.tolist(), targets[1].boxes.tolist(), strict=True):
        assert mine == pytest.approx(theirs)
    assert targets[0].area.tolist() == targets[1].area.tolist()
    assert targets[0].area.tolist() == pytest.approx([0.28 * 800, 0.25 * 800, 0.35 * 800], rel=0.15)


masks = st.tuples(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))


@settings(max_examples=200, deadline=None)
@given(drawn=masks, cut=st.integers(0, 200))
def test_an_encoding_has_the_box_and_area_of_pycocotools_and_a_part_of_it_never_reaches_it(
    drawn: tuple[int, int, float, int], cut: int
) -> None:
    height, width, share, seed = drawn
    mask = np.asfortranarray(np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8, order="F")
    encoded = coco_mask.encode(mask)
    text, size = encoded["counts"].decode(), [height, width]
    (left, top, right, bottom), area = shape_of({"counts": text, "size": size}, width, height)
    assert [left, top, right - left, bottom - top] == coco_mask.toBbox(encoded).tolist()
    assert area == mask.sum()
    try:  # pycocotools writes past its memory if the last letter says that more follows
        shape_of({"counts": text[: cut % (len(text) + 1)] + "o", "size": size}, width, height)
    except UserError as fault:
        refused = str(fault)
    assert "must be a run-length encoding of the image" in refused
