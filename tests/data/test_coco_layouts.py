"""COCO's JSON as programs leave it: where files lie, how images are named, what stands in for boxes, missing splits."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from data.coco_documents import CATEGORIES, LAYOUTS, NUM_IMAGES, Document, document, same, write
from PIL import Image
from pycocotools import mask as coco_mask

from rl_det.data.annotated import AnnotatedImages
from rl_det.data.check import DataError
from rl_det.data.open import open_data


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_opens_as_its_program_left_it_and_says_in_one_line_what_it_is(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for at, layout in (("plain", LAYOUTS["of this project"]), ("own", LAYOUTS[name])):
        for split, (file, folder) in layout.items():
            write(tmp_path / at, split, file, folder)
    opened = open_data(tmp_path / "own")
    assert capsys.readouterr().err == f"{tmp_path / 'own'}: COCO, 5 train, 4 val, 3 test images, 2 classes\n"
    same(opened, open_data(tmp_path / "plain"))
    assert opened.notes == ()


NAMES: dict[str, Callable[[str], str]] = {
    "its own name": str,
    "the folder before it": "images/{}".format,
    "Windows": "images\\{}".format,
    "a drive of Windows": "C:\\data\\set\\images\\{}".format,
    "an absolute path of another machine": "/home/somebody/set/images/{}".format,
    "Label Studio's": "/data/local-files/?d=set/images/{}".format,
    "a URL": "https://example.org/set/images/{}?x=1".format,
    "the folder itself": "./{}".format,
}


@pytest.mark.parametrize("name", NAMES)
def test_images_are_found_however_a_program_wrote_their_names(name: str, tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images", document(split, NAMES[name]))
    assert [len(open_data(tmp_path)[split]) for split in ("train", "val", "test")] == [5, 4, 3]


def in_folders(told: Document, *names: str) -> Document:
    for entry, name in zip(told["images"], names, strict=True):
        entry["file_name"] = name
    return told


def test_two_names_of_one_file_are_refused_as_folders_were_left_out(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    names = ["cam1/train1.png", "cam2/train1.png", "train3.png", "train4.png", "train5.png"]
    write(tmp_path, "train", "train.json", "images", in_folders(document("train"), *names))
    told = (
        r"train1\.png: image 2 of train\.json: file_name 'cam2/train1\.png' leads to this file, "
        r"which is also that of image 1, 'cam1/train1\.png'"
    )
    with pytest.raises(DataError, match=told):
        open_data(tmp_path)


def test_a_file_that_is_found_without_its_folders_is_told_if_others_are_found_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    for folder in ("cam1", "cam2"):
        (tmp_path / "images" / folder).mkdir()
    Image.new("RGB", (30, 20), "red").save(tmp_path / "images" / "cam1" / "train2.png")
    names = ["cam1/train1.png", "cam1/train2.png", "train3.png", "train4.png", "train5.png"]
    write(tmp_path, "train", "train.json", "images", in_folders(document("train"), *names))
    opened = open_data(tmp_path)
    told = "and others without its folders; 'cam1/train1.png' is taken to be images/train1.png"
    assert told in capsys.readouterr().err
    files = [opened.train.file_of(index).relative_to(tmp_path / "images").as_posix() for index in range(2)]  # type: ignore[attr-defined]
    assert files == ["train1.png", "cam1/train2.png"], "what one name leads to does not depend on the one before"


def test_absolute_names_of_several_depths_are_no_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    names = [f"/home/{'a/' * k}train{k}.png" for k in range(1, 6)]
    write(tmp_path, "train", "train.json", "images", in_folders(document("train"), *names))
    assert len(open_data(tmp_path).train) == 5
    assert "warning" not in capsys.readouterr().err


def test_an_image_under_two_ids_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    names = ["train1.png", "train1.png", "train3.png", "train4.png", "train5.png"]
    write(tmp_path, "train", "train.json", "images", in_folders(document("train"), *names))
    assert len(open_data(tmp_path).train) == 5
    assert "train.json: 1 of 5 images are listed twice, under other ids" in capsys.readouterr().err


def test_an_absolute_path_in_the_folder_is_taken(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images", document(split, lambda name: str(tmp_path / "images" / name)))
    assert len(open_data(tmp_path).train) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "train.json: image 1: file_name must not leave the data's folder; got '../secret.png'"),
        ("images/../../secret.png", "train.json: image 1: file_name must not leave the data's folder"),
        ("{outside}/secret.png", "lies outside the data's folder"),
        ("link.png", "link.png: image 1 of train.json: must lie in the data's folder"),
        ("there/secret.png", "secret.png: image 1 of train.json: must lie in the data's folder"),
        ("/", "train.json: image 1: file_name must name a file; it is empty"),
        ("a\nb\x1b.png", r"images/a\nb\x1b.png: image 1 of train.json: there is no such image file"),
        ("a\0b.png", r"images/a\x00b.png: image 1 of train.json: there is no such image file"),
        ("http://[", "there is no such image file"),
    ],
)
def test_no_file_outside_the_folder_is_read(name: str, message: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    outside.mkdir()
    for folder in (tmp_path, outside):
        Image.new("RGB", (30, 20)).save(folder / "secret.png")
    told = document("train")
    told["images"][0]["file_name"] = name.format(outside=outside)
    write(root, "train", "train.json", "images", told)
    (root / "images" / "link.png").symlink_to(outside / "secret.png")
    (root / "images" / "there").symlink_to(outside)
    with pytest.raises(DataError) as caught:
        open_data(root)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def one_file(tmp_path: Path, told: Document) -> AnnotatedImages:
    """The only image of a data set in one piece, whatever split it became."""
    told["images"] = told["images"][:1]
    told["annotations"] = [entry for entry in told["annotations"] if entry["image_id"] == 1]
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images", told if split == "train" else None)
    train = open_data(tmp_path).train
    assert isinstance(train, AnnotatedImages)
    return train


def triangle() -> list[float]:
    return [2.0, 3.0, 20.5, 3.0, 2.0, 15.0]


def test_polygons_give_the_box_of_their_extremes_and_the_area_that_coco_gives(tmp_path: Path) -> None:
    told = document("train")
    square = [22.0, 4.0, 28.0, 4.0, 28.0, 10.0, 22.0, 10.0]
    del told["annotations"][0]["bbox"]
    told["annotations"][0]["segmentation"] = [triangle(), square]
    target = one_file(tmp_path, told)[0].target
    wanted = coco_mask.area(coco_mask.merge(coco_mask.frPyObjects([triangle(), square], 20, 30)))
    assert target.boxes[0].tolist() == [2, 3, 28, 15]
    assert target.area[0] == float(wanted)


@pytest.mark.parametrize("form", ["counts", "text"])
def test_run_lengths_give_the_box_and_the_area_of_their_pixels(form: str, tmp_path: Path) -> None:
    pixels = np.zeros((20, 30), np.uint8)
    pixels[4:9, 10:21] = pixels[12, 25] = 1
    encoded = coco_mask.encode(np.asfortranarray(pixels))
    flat = pixels.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    told = document("train")
    told["annotations"][0] |= {
        "bbox": None, "iscrowd": 1,
        "segmentation": {"size": [20, 30], "counts": counts if form == "counts" else encoded["counts"].decode()},
    }  # fmt: skip
    target = one_file(tmp_path, told)[0].target
    assert target.boxes[0].tolist() == [10, 4, 26, 13]
    assert target.area[0] == pixels.sum() == 56
    assert target.iscrowd.tolist() == [True, False]


@pytest.mark.parametrize(
    "segmentation",
    [[], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, "6"]], [[1, 2, 3, 4, 5, 6, 7]], {"counts": [3, -3]}, {"counts": [0, 599]},
     {"size": [2, 2], "counts": [4]}, {"counts": None}, "text", 7],
    ids=str,
)  # fmt: skip
def test_a_segmentation_that_is_none_is_refused(segmentation: object, tmp_path: Path) -> None:
    told = document("train")
    told["annotations"][0] |= {"bbox": None, "segmentation": segmentation}
    with pytest.raises(DataError, match=r"train\.json: annotation 0: (segmentation|bbox) "):
        one_file(tmp_path, told)


def test_polygons_that_reach_far_out_cost_no_memory(tmp_path: Path) -> None:
    told = document("train")
    del told["annotations"][0]["bbox"]
    told["annotations"][0]["segmentation"] = [[-1e12, -1e12, 1e12, -1e12, 1e12, 1e12, -1e12, 1e12]]
    target = one_file(tmp_path, told)[0].target
    assert target.boxes[0].tolist() == [0, 0, 30, 20]
    assert target.area[0] == 600


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", "train.json", "images")
    text = (tmp_path / "train.json").read_text()
    (tmp_path / "train.json").write_text(text[:-1] + ', "annotations": []}')
    with pytest.raises(DataError, match=r"train\.json: the file: not JSON \(the key 'annotations' comes twice"):
        open_data(tmp_path)


def test_a_pipe_in_place_of_a_json_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.json")
    with pytest.raises(DataError, match=r"train\.json: the file: must be a regular file"):
        open_data(tmp_path)


def test_a_category_that_only_stands_above_others_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in NUM_IMAGES:
        told = document(split)
        told["categories"] = [{"id": 0, "name": "fruit", "supercategory": "none"}] + [
            {**category, "supercategory": "fruit"} for category in CATEGORIES
        ]
        write(tmp_path, split, f"{split}.json", "images", told)
    splits = open_data(tmp_path)
    assert splits.classes == ("ripe", "unripe")
    assert splits.category_ids == (1, 2)
    assert "the class 'fruit' has no annotation" in splits.notes[0]
    assert capsys.readouterr().err.count("'fruit'") == 1


def test_a_background_without_an_object_is_left_out_and_said(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        told = document(split)
        told["categories"] = [{"id": 0, "name": "_background_"}, *CATEGORIES]
        write(tmp_path, split, f"{split}.json", "images", told)
    opened = open_data(tmp_path)
    assert opened.classes == ("ripe", "unripe")
    assert opened.notes == (
        "the class '_background_' has no annotation in any split and is the background: it is left out",
    )


def test_a_name_that_two_categories_have_is_refused(tmp_path: Path) -> None:
    told = document("train") | {"categories": [{"id": 1, "name": "fruit"}, {"id": 2, "name": "fruit"}]}
    write(tmp_path, "train", "train.json", "images", told)
    with pytest.raises(DataError, match=r"train\.json: category 2: the name 'fruit' is that of category 1 too"):
        open_data(tmp_path)


def test_a_split_of_crowds_alone_is_refused(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        told = document(split)
        for entry in told["annotations"]:
            entry["iscrowd"] = int(split == "val")
        write(tmp_path, split, f"{split}.json", "images", told)
    with pytest.raises(DataError, match=r"val\.json: annotations: the split holds no box that is to be found"):
        open_data(tmp_path)


def scaled(entry: Document, by: float) -> list[float]:
    return [by * side for side in entry["bbox"]]


FORMS: dict[str, tuple[Callable[[Document], list[float]], str]] = {
    "corners": (lambda e: [e["bbox"][0], e["bbox"][1], e["bbox"][0] + e["bbox"][2] + 9, e["bbox"][1] + e["bbox"][3] + 7],
                r"warning: .*train\.json: \d+ of 10 boxes leave their image; they are x1, y1, x2, y2 by all appearance"),
    "another size": (lambda e: [2.5 * (12 + e["bbox"][0]), *scaled(e, 2.5)[1:]],
                     r"warning: .*train\.json: \d+ of 10 boxes leave their image; are they of images of"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_boxes_in_another_form_are_warned_of_with_the_likely_cause(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes, message = FORMS[form]
    for split in NUM_IMAGES:
        told = document(split)
        for entry in told["annotations"]:
            entry["bbox"] = boxes(entry)
        write(tmp_path, split, f"{split}.json", "images", told)
    with suppress(DataError):  # where all boxes lie outside
        open_data(tmp_path)
    assert [line for line in capsys.readouterr().err.splitlines() if re.search(message, line)]


def test_boxes_that_are_shares_of_the_image_are_refused(tmp_path: Path) -> None:
    told = document("train")
    for entry in told["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x / 30, y / 20, w / 30, h / 20]
    write(tmp_path, "train", "train.json", "images", told)
    with pytest.raises(DataError, match="all 6 boxes lie within the first pixel"):
        open_data(tmp_path)


def test_a_missing_test_split_is_half_of_validation_by_a_fixed_seed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        write(tmp_path, split, f"{split}.json", "images")
    one, two = open_data(tmp_path), open_data(tmp_path)
    same(one, two)
    assert [len(one[split]) for split in ("train", "val", "test")] == [5, 2, 2]
    ids = {split: {one[split][k].target.image_id for k in range(len(one[split]))} for split in ("val", "test")}
    assert ids["val"] | ids["test"] == {1, 2, 3, 4}
    assert one.notes == ("there is no test split: 2 of 4 val images are taken for it, by seed 0; test= names another",)
    assert one.notes[0] in capsys.readouterr().err


def test_a_data_set_in_one_piece_is_divided(tmp_path: Path) -> None:
    write(tmp_path, "train", "annotations/instances_default.json", "images")
    splits = open_data(tmp_path)
    sizes = [len(splits[split]) for split in ("train", "val", "test")]
    assert sizes == [3, 1, 1]
    assert len(splits.notes) == 2


def test_one_image_cannot_be_divided(tmp_path: Path) -> None:
    told = document("train")
    told["images"] = told["images"][:1]
    told["annotations"] = told["annotations"][:2]
    write(tmp_path, "train", "train.json", "images", told)
    with pytest.raises(DataError, match=r"train\.json: images: there is no test split, and 1 image to divide"):
        open_data(tmp_path)


def test_the_test_images_may_be_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "a", split, f"{split}.json", "images")
    write(tmp_path / "b", "test", "test.json", "images")
    for named in (tmp_path / "b", tmp_path / "b" / "test.json"):
        splits = open_data(tmp_path / "a", test=named)
        assert [len(splits[split]) for split in ("train", "val", "test")] == [5, 4, 3]
        assert splits.notes == ()


def test_the_order_of_the_labels_may_be_given(tmp_path: Path) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    splits = open_data(tmp_path, classes=("unripe", "ripe"))
    assert splits.classes == ("unripe", "ripe")
    assert splits.category_ids == (2, 1)
    assert splits.train[0].target.labels.tolist() == [2, 1]
    with pytest.raises(DataError, match=r"classes: must be the data's own names in any order, \['ripe', 'unripe'\]"):
        open_data(tmp_path, classes=("ripe", "green"))


def test_images_of_two_splits_are_counted_by_their_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    (tmp_path / "images" / "test2.png").write_bytes((tmp_path / "images" / "train4.png").read_bytes())
    (tmp_path / "images" / "test3.png").write_bytes((tmp_path / "images" / "train4.png").read_bytes())
    (tmp_path / "images" / "val1.png").write_bytes((tmp_path / "images" / "train1.png").read_bytes())
    open_data(tmp_path)
    told = capsys.readouterr().err
    assert "2 of 3 test images are train images too" in told
    assert "1 of 4 val images are train images too" in told
    assert "test images are val" not in told


def test_images_that_exif_turns_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in NUM_IMAGES:
        write(tmp_path, split, f"{split}.json", "images")
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.new("RGB", (30, 20), (9, 9, 9)).save(tmp_path / "images" / "val2.png", exif=turned)
    open_data(tmp_path)
    assert "val.json: 1 of 4 images are turned by their EXIF orientation" in capsys.readouterr().err


def test_all_faults_are_counted_in_the_first_one(tmp_path: Path) -> None:
    told = document("train")
    told["annotations"][0]["category_id"] = 9
    told["annotations"][1]["bbox"] = [1, 2, 3]
    (tmp_path / "images").mkdir()
    write(tmp_path, "train", "train.json", "images", told)
    (tmp_path / "images" / "train3.png").unlink()
    with pytest.raises(DataError, match=r"train3\.png: .* \(and 2 more faults; `rl-det check` lists all\)"):
        open_data(tmp_path)
