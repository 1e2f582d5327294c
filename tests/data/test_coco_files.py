"""Which JSON files of a folder are COCO's splits, and whose are other programs'; test images of another folder."""

import json
from pathlib import Path

import pytest
from data.coco_documents import document, same, write

from rl_det.data.check import DataError
from rl_det.data.open import open_data

STRAY: dict[str, object] = {
    "train_config.json": {"images": "images/", "epochs": 3},
    "test_predictions.json": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
    "val-metrics.json": {"AP": 0.5},
    "._train.json": "no JSON at all",
    "train_small.json": document("val"),
}


def test_other_json_files_beside_a_data_set_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in ("plain", "own"):
        for split in ("train", "val"):
            write(tmp_path / at, split, f"{split}.json", "images")
    for name, told in STRAY.items():
        (tmp_path / "own" / name).write_text(told if isinstance(told, str) else json.dumps(told))
    opened = open_data(tmp_path / "own")
    told = capsys.readouterr().err
    same(opened, open_data(tmp_path / "plain"))
    (line,) = [line for line in told.splitlines() if "could be meant" in line]
    assert line.endswith("train.json: is read for train; train_small.json could be meant too, and is not read")


def test_other_json_files_make_no_coco_of_another_layout(tmp_path: Path) -> None:
    for name, told in STRAY.items():
        if name != "train_small.json":
            (tmp_path / name).write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(DataError, match="must be of a layout that is known"):
        open_data(tmp_path)


def test_a_split_whose_file_has_the_usual_name_and_is_broken_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "val", "val.json", "images")
    write(tmp_path, "train", "train_small.json", "images")
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(DataError, match=r"train\.json: the file: not JSON"):
        open_data(tmp_path)


@pytest.mark.parametrize("name", ["test2017.json", "annotations/test_v1.json", "test_v1.json"])
def test_a_split_whose_file_is_cut_off_is_a_fault_whatever_its_name(name: str, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path, split, name.replace("test", split), "images")
    whole = (tmp_path / name).read_text()
    (tmp_path / name).write_text(whole[: len(whole) // 3])
    with pytest.raises(DataError, match=rf"{Path(name).name}: the file: not JSON"):
        open_data(tmp_path)


def test_a_split_in_two_bytes_a_letter_is_read(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path, split, f"{split}_v1.json", "images")
        file = tmp_path / f"{split}_v1.json"
        file.write_text(file.read_text(), encoding="utf-16")
    assert [len(open_data(tmp_path)[split]) for split in ("train", "val", "test")] == [5, 4, 3]


def test_the_whole_of_a_split_comes_before_a_part_of_it(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path, split, f"annotations/instances_{split}2017.json", "images")
    (tmp_path / "annotations" / "instances_train-mini.json").write_text(json.dumps(document("test")))
    assert len(open_data(tmp_path).train) == 5


def test_a_test_folder_with_a_class_without_a_name_is_a_fault(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "a", split, f"{split}.json", "images")
    told = document("test")
    told["categories"] = [{"id": 1, "name": "ripe"}, {"id": 2, "name": ""}]
    write(tmp_path / "b", "test", "test.json", "images", told)
    with pytest.raises(DataError, match=r"test\.json: category 2: name"):
        open_data(tmp_path / "a", test=tmp_path / "b")


def test_test_images_of_another_folder_may_have_ids_of_their_own_for_the_same_names(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "a", split, f"{split}.json", "images")
    told = document("test")
    told["categories"] = [{"id": 7, "name": "unripe"}, {"id": 9, "name": "ripe"}]
    for annotation in told["annotations"]:
        annotation["category_id"] = {1: 9, 2: 7}[annotation["category_id"]]
    write(tmp_path / "b", "test", "test.json", "images", told)
    write(tmp_path / "c", "test", "test.json", "images")
    splits = open_data(tmp_path / "a", test=tmp_path / "b")
    same(splits, open_data(tmp_path / "a", test=tmp_path / "c"))
    told["categories"][0]["name"] = "rotten"
    write(tmp_path / "b", "test", "test.json", "images", told)
    with pytest.raises(DataError, match=r"test\.json: categories: must be those of train\.json"):
        open_data(tmp_path / "a", test=tmp_path / "b")
