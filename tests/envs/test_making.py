"""What an environment says and refuses when it is made."""

from typing import Any

import gymnasium
import pytest
import rl_det_envs.detector_and_data as environment
from contract.environments import TUNE, shipped
from unchecked import unchecked

import rl_det.progress
from rl_det.data.digit_scenes import DigitScenes


def test_encoding_a_data_set_shows_a_bar_if_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made: dict[str, Any] = {"detector": shipped(), "dataset": DigitScenes("val", num_scenes=3), "num_candidates": 8}
    monkeypatch.setattr(rl_det.progress, "draws_bars", lambda: True)
    monkeypatch.setattr(environment, "SILENT", 1000.0)
    gymnasium.make(TUNE, **made)
    assert "encode the data set" not in capfd.readouterr().err
    monkeypatch.setattr(environment, "SILENT", 0.0)
    gymnasium.make(TUNE, **made)
    assert "encode the data set" in capfd.readouterr().err


@pytest.mark.parametrize("argument", ["context_candidates", "action_scale"])
def test_an_argument_that_would_do_nothing_is_not_taken(argument: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{argument}'"):
        gymnasium.make(TUNE, **{argument: 4})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nms_iou": 1.5}, r"nms_iou must lie in \[0, 1\]; got 1\.5; 0\.5 is usual"),
        ({"pool_images": 0}, "pool_images must be at least 1; got 0; 32 is usual"),
    ],
)
def test_impossible_arguments_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gymnasium.make(TUNE, **wrong)  # type: ignore[arg-type]


def test_what_is_no_reward_is_refused() -> None:
    with (
        unchecked(),
        pytest.raises(ValueError, match=r"a Reward or a function \(detections, target\) -> number; got 3"),
    ):
        gymnasium.make(TUNE, reward=3)  # type: ignore[arg-type]
