"""What the flags of every command open."""

from pathlib import Path

import pytest
from finetuning.small import write_folder

from rl_det.data.splits import First
from rl_det.finetuning.request import Request


def test_a_smoke_run_takes_the_first_images_of_a_folder_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "data", train=70, val=33, test=5)
    few, _ = Request(data=folder, budget="smoke", device="cpu").open()
    assert [len(few[split]) for split in ("train", "val", "test")] == [48, 16, 5]
    assert isinstance(few.train, First)
    assert "smoke: only the first images of data are used: 48 train, 16 val, 5 test" in capsys.readouterr().err
    whole, _ = Request(data=folder, budget="short", device="cpu").open()
    assert [len(whole[split]) for split in ("train", "val", "test")] == [70, 33, 5]
    assert few.train[47].target.image_id == whole.train[47].target.image_id
    assert few.classes == whole.classes
    with pytest.raises(IndexError):
        few.train[48]


def test_a_small_folder_is_used_whole_and_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits, _ = Request(data=write_folder(tmp_path / "data"), budget="smoke", device="cpu").open()
    assert not isinstance(splits.train, First)
    assert "smoke" not in capsys.readouterr().err
