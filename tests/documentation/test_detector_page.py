"""docs/my_detector.md: its program runs as it stands, with few images and updates."""

from pathlib import Path

import pytest
from documentation.conftest import RunPage
from torchvision.transforms.functional import to_pil_image

from rl_det.data.digit_scenes import DigitScenes


def write_table(folder: Path) -> None:
    """Nine images, and a table of their boxes, as docs/my_detector.md has them."""
    folder.mkdir()
    scenes = DigitScenes("train", num_scenes=9)
    lines = []
    for index in range(9):
        sample = scenes[index]
        to_pil_image(sample.image).save(folder / f"{index}.png")
        for box, label in zip(sample.target.boxes.tolist(), sample.target.labels.tolist(), strict=True):
            lines.append(",".join([f"{index}.png", *map(str, box), "low" if label <= 5 else "high"]))
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")


def test_a_detector_and_data_of_ones_own_need_no_adapter(
    run_page: RunPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "mine")
    run_page("my_detector")
    assert capsys.readouterr().out.endswith("1 image searched\n")
