"""The programs of the pages run as they stand, with fewer images and updates."""

from pathlib import Path

import pytest
import torch
from documentation.conftest import RunPage
from documentation.reading import blocks

from rl_det.data.digit_scenes import DigitScenes

MOST_LINES = 50


def test_getting_started_prints_the_table_and_takes_the_detector_home(
    run_page: RunPage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page("getting_started")
    printed = capsys.readouterr().out
    assert "continued_supervised" in printed
    assert printed.count("\n[") == 3
    assert Path("better/detector.pt").is_file()


def test_a_reward_of_ones_own_is_paid_and_judged(run_page: RunPage, capsys: pytest.CaptureFixture[str]) -> None:
    price = run_page("my_reward")["price"]
    assert capsys.readouterr().out.count("an image") == 3
    scene = DigitScenes("val", num_scenes=1)[0].target
    missed = len(scene.boxes) + 2 * int((scene.area < 24**2).sum())
    perfect = {"boxes": scene.boxes, "labels": scene.labels, "scores": torch.ones(len(scene.boxes))}
    twice = {name: values.repeat(2, *[1] * (values.ndim - 1)) for name, values in perfect.items()}
    nothing = {name: values[:0] for name, values in perfect.items()}
    wrong = {**perfect, "labels": scene.labels % 10 + 1}
    found = [price(detections, scene) for detections in (perfect, twice, nothing)]
    assert found == [0, -len(scene.boxes), -missed]
    assert price(wrong, scene) < -missed


@pytest.mark.parametrize("page", ["getting_started", "my_detector", "my_reward", "my_agent", "my_policy"])
def test_a_program_is_short(page: str) -> None:
    for block in blocks(page):
        assert len([line for line in block.splitlines() if line.strip()]) <= MOST_LINES
