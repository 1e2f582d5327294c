"""`finetune` on unusual data: it goes through, and all pages are made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from finetuning.small import BUDGET, Pairs, own_model

import rl_det
from rl_det.errors import UserError


def assert_pages_are_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "could not be made" not in capsys.readouterr().err
    assert (folder / "report.html").exists()
    assert (folder / "test_detections" / "ppo.png").exists()


def one_image_of_one_class(split: str) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    image, target = Pairs(split)[0]
    return [(image, {"boxes": target["boxes"], "labels": torch.ones_like(target["labels"])})]


def test_one_image_of_one_class_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits: Any = [one_image_of_one_class(split) for split in ("train", "val", "test")]
    detector = rl_det.load_detector(own_model(num_classes=1), splits)
    result = rl_det.finetune(
        detector, splits, rl_det.PPO(samples_per_image=2), rl_det.Supervised(), budget=BUDGET, out=tmp_path / "run"
    )
    assert "ppo" in result.table()
    assert result.rows["ppo"].class_ap.keys() == {"1"}
    assert_pages_are_made(tmp_path / "run", capsys)


def test_images_of_several_sizes_in_grey_and_classes_without_boxes_go_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Mixed(Pairs):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            image, target = super().__getitem__(index)
            if index == 1:
                return image[:1, :, :100], {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
            if index == 2:
                return torch.nn.functional.pad(image, (0, 40, 0, 10)), target
            return image, target

    splits = rl_det.open_data([Mixed("train"), Mixed("val"), Mixed("test")], classes=["low", "high", "absent"])
    detector = rl_det.load_detector(own_model(num_classes=3), splits)
    result = rl_det.finetune(
        detector, splits, rl_det.PPO(samples_per_image=2), rl_det.Supervised(), budget=BUDGET, out=tmp_path / "run"
    )
    assert result.rows["ppo"].class_ap["absent"] != result.rows["ppo"].class_ap["absent"], "NaN: there is none"
    assert rl_det.load_results(tmp_path / "run").table() == result.table()
    assert_pages_are_made(tmp_path / "run", capsys)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_of_ones_own_without_a_true_box_is_refused_before_anything_is_trained(
    split: str, tmp_path: Path
) -> None:
    class Empty(Pairs):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            image, target = super().__getitem__(index)
            return image, target | {"iscrowd": torch.ones_like(target["labels"])}

    splits = rl_det.open_data(
        [(Empty if name == split else Pairs)(name) for name in ("train", "val", "test")], classes=["low", "high"]
    )
    detector = rl_det.load_detector(own_model(num_classes=2), splits)
    with pytest.raises(UserError, match=rf"{split}: must hold a true box that is no crowd; none of its \d images does"):
        rl_det.finetune(detector, splits, rl_det.Supervised(), budget=BUDGET, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
