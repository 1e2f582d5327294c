"""Question: does a data set give the same results in whatever layout it comes?

Command: python experiments/benchmarks/four_layouts.py --data ../shared/data/bccd --out /tmp/four_layouts
Hardware and numbers: experiments/benchmarks/README.md.

Writes the data set in COCO's own layout, in Roboflow's, in YOLO's and in Pascal VOC's, and tunes `tiny` on each with the smoke
budget. All figures of all rows must be equal to the last bit.
"""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

import rl_det
from rl_det.data import Split
from rl_det.data.annotated import AnnotatedImages
from rl_det.data.splits import Splits
from rl_det.program import program

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Tune on one data set in four layouts."""

    data: Path
    out: Path
    """Where the layouts and the runs are written."""


def name_of(images: AnnotatedImages, place: int) -> str:
    """A file name that sorts as the image ids do."""
    own = images.images[place]
    return f"{own.image_id:06}_{own.file.name}"


def copy(images: AnnotatedImages, folder: Path) -> None:
    """The split's images under names that sort by id."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, own in enumerate(images.images):
        shutil.copy(own.file, folder / name_of(images, place))


def coco_document(images: AnnotatedImages) -> dict[str, object]:
    """The split as COCO's JSON."""
    annotations: list[dict[str, object]] = []
    for place, own in enumerate(images.images):
        target = images.target(place)
        for (x, y, right, bottom), label, area in zip(
            target.boxes.tolist(), target.labels.tolist(), target.area.tolist(), strict=True
        ):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": own.image_id, "category_id": label, "area": area, "iscrowd": 0,
                 "bbox": [x, y, right - x, bottom - y]}
            )  # fmt: skip
    entries = [
        {"id": own.image_id, "file_name": name_of(images, place), "width": width, "height": height}
        for place, (own, (width, height)) in enumerate(zip(images.images, images.sizes.tolist(), strict=True))
    ]
    categories = [{"id": label, "name": name} for label, name in enumerate(images.classes, start=1)]
    return {"images": entries, "annotations": annotations, "categories": categories}


def write_coco(data: dict[Split, AnnotatedImages], root: Path) -> None:
    """COCO's own: annotations/instances_train2017.json, train2017/."""
    for split, images in data.items():
        copy(images, root / f"{split}2017")
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(
            json.dumps(coco_document(images)), encoding="utf-8"
        )


def write_roboflow(data: dict[Split, AnnotatedImages], root: Path) -> None:
    """Roboflow's: train/_annotations.coco.json beside the images."""
    for split, images in data.items():
        folder = root / ("valid" if split == "val" else split)
        copy(images, folder)
        (folder / "_annotations.coco.json").write_text(json.dumps(coco_document(images)), encoding="utf-8")


def write_yolo(data: dict[Split, AnnotatedImages], root: Path) -> None:
    """YOLO's: data.yaml, images/, labels/."""
    for split, images in data.items():
        copy(images, root / "images" / split)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        for place, (width, height) in enumerate(images.sizes.tolist()):
            target, lines = images.target(place), []
            for (x, y, right, bottom), label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
                shares = (
                    (x + right) / 2 / width,
                    (y + bottom) / 2 / height,
                    (right - x) / width,
                    (bottom - y) / height,
                )
                lines.append(f"{label - 1} {' '.join(map(repr, shares))}\n")
            file = root / "labels" / split / f"{Path(name_of(images, place)).stem}.txt"
            file.write_text("".join(lines), encoding="utf-8")
    names = "".join(f"  {label}: {name}\n" for label, name in enumerate(data["train"].classes))
    splits = "".join(f"{split}: images/{split}\n" for split in data)
    (root / "data.yaml").write_text(f"path: .\n{splits}names:\n{names}", encoding="utf-8")


def write_voc(data: dict[Split, AnnotatedImages], root: Path) -> None:
    """Pascal VOC's: Annotations/, JPEGImages/, ImageSets/Main/."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, images in data.items():
        copy(images, root / "JPEGImages")
        stems = [Path(name_of(images, place)).stem for place in range(len(images))]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(
            "".join(f"{stem}\n" for stem in stems), encoding="utf-8"
        )
        for place, (width, height) in enumerate(images.sizes.tolist()):
            top = ET.Element("annotation")
            ET.SubElement(top, "filename").text = name_of(images, place)
            size = ET.SubElement(top, "size")
            for side, value in (("width", width), ("height", height), ("depth", 3)):
                ET.SubElement(size, side).text = str(value)
            target = images.target(place)
            for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
                thing = ET.SubElement(top, "object")
                ET.SubElement(thing, "name").text = images.classes[label - 1]
                corners = ET.SubElement(thing, "bndbox")
                for side, value in zip(
                    ("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True
                ):
                    ET.SubElement(corners, side).text = repr(value)
            ET.ElementTree(top).write(root / "Annotations" / f"{stems[place]}.xml")


WRITERS = {"coco": write_coco, "roboflow": write_roboflow, "yolo": write_yolo, "voc": write_voc}


def methods(folder: Path, out: Path, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """The figures of a smoke run of `tiny` on a folder; Pascal VOC has no order of classes, so all are given it."""
    data = rl_det.open_data(folder, classes=classes)
    detector = rl_det.load_detector("tiny", data, weights="none", device="cpu")
    return rl_det.finetune(detector, data, rl_det.PPO(), budget="smoke", out=out, overwrite=True).methods


def run(flags: Flags) -> None:
    """Write all layouts, tune on each, and compare."""
    splits: Splits = rl_det.open_data(flags.data)
    data = {split: images for split in SPLITS if isinstance(images := splits[split], AnnotatedImages)}
    found = {}
    for name, write in WRITERS.items():
        write(data, flags.out / "data" / name)
        found[name] = methods(flags.out / "data" / name, flags.out / "runs" / name, splits.classes)
    first = found["coco"]
    print(json.dumps({"AP": {row: figures["AP"] for row, figures in first.items()}}))
    print(
        json.dumps(
            {
                name: json.dumps(each, sort_keys=True) == json.dumps(first, sort_keys=True)
                for name, each in found.items()
            }
        )
    )


if __name__ == "__main__":
    with program():
        run(tyro.cli(Flags, description=__doc__))
