"""What a person who is new to it passes to a function by mistake: one sentence says what must come instead."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from finetuning.small import own_model
from gymnasium.vector import AutoresetMode
from PIL import Image
from torchvision.models.detection import FasterRCNN
from unchecked import unchecked

import rl_det
from rl_det.detectors.encodings import encode_dataset
from rl_det.errors import UserError
from rl_det.rewards import Edits, PoolAp, Reward
from rl_det.training.loop import Callback

ENVIRONMENT = "rl_det/RescoreDetections-v0"


@pytest.fixture(scope="module")
def data() -> rl_det.Splits:
    return rl_det.digit_scenes(2, 2, 2)


@pytest.fixture(scope="module")
def detector(data: rl_det.Splits) -> Any:
    return rl_det.load_detector("tiny", data)


RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "a large seed": ({"seed": 2**32}, r"seed must not be negative, and less than 2\*\*32; got \d+; 0 is usual"),
    "no data": ({"data": None}, r"data must be a folder, or three data sets .*; got NoneType"),
    "a number as folder": ({"out": 3}, "out must be a string or a path or None; got 3"),
    "one callback": ({"callbacks": Callback()}, r"callbacks must be a list of Callback objects, .*; got <"),
    "a callback's class": ({"callbacks": [Callback]}, "callbacks must be a list of Callback objects"),
    "a recipe's name": ({"recipe": "photos"}, "recipe must be of class Recipe or None; got 'photos'"),
    "a detector's name": ({"detector": "tiny"}, r"must be what load_detector gives; got a str"),
    "a strategy's name": ({"strategies": ["ppo"]}, r"a strategy must be an object, such as PPO\(\)"),
}


@pytest.mark.parametrize("mistake", RUNS)
def test_finetune(mistake: str, data: rl_det.Splits, detector: Any, tmp_path: Path) -> None:
    given, message = RUNS[mistake]
    given = {"detector": detector, "data": data, "strategies": [], "out": tmp_path / "run", "budget": "smoke", **given}
    with unchecked(), pytest.raises(UserError, match=message):
        rl_det.finetune(given.pop("detector"), given.pop("data"), *given.pop("strategies"), **given)
    assert not list(tmp_path.iterdir())


OTHERS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a model's class": (lambda data, _: rl_det.load_detector(FasterRCNN, data), "must be a name, .*; got FasterRCNN"),
    "no detector": (lambda data, _: rl_det.load_detector(None, data), "must be a name, a path, .*; got NoneType"),
    "a reward's class": (lambda *_: rl_det.PPO(reward=PoolAp), r"such as PoolAp\(\); got the class PoolAp"),
    "a size as text": (
        lambda data, _: rl_det.load_detector("tiny", data, image_size="64"),
        "image_size must be a whole number or None; got '64'",
    ),
    "a number as data": (lambda *_: rl_det.open_data(3), r"data must be a folder, or three data sets .*; got int"),
    "no folder": (lambda *_: rl_det.load_tuned(None), "folder must be a string or a path; got None"),
    "no data set": (lambda *_: gym.make(ENVIRONMENT, dataset=3), "dataset must be a data set .*; got int"),
    "three splits": (lambda data, _: gym.make(ENVIRONMENT, dataset=data), "must be one data set; .* such as data.val"),
    "the name of a detector": (
        lambda *_: gym.make(ENVIRONMENT, detector="tiny"), "detector must be what rl_det.load_detector gives; got str",
    ),
    "no whole number of candidates": (
        lambda *_: gym.make(ENVIRONMENT, num_candidates=2.5), "num_candidates must be a whole number; got 2.5; 64 is usual",
    ),
    "half a pool": (lambda *_: gym.make(ENVIRONMENT, pool_images=4.7), "pool_images must be a whole number; got 4.7"),
    "half a context": (
        lambda *_: gym.make(ENVIRONMENT, context_candidates=1.5), "context_candidates must be a whole number; got 1.5",
    ),
    "half a sample": (lambda *_: gym.make(ENVIRONMENT, samples_per_image=1.5), "samples_per_image must be a whole number"),
    "half a step": (lambda *_: gym.make("rl_det/RefineBoxes-v0", num_steps=1.5), "num_steps must be a whole number; got 1.5"),
    "an overlap in words": (lambda *_: gym.make(ENVIRONMENT, nms_iou="a"), "nms_iou must be a number or None; got 'a'"),
    "a scale in words": (lambda *_: gym.make(ENVIRONMENT, action_scale="x"), "action_scale must be a number or None; got 'x'"),
    "credit in words": (lambda *_: gym.make(ENVIRONMENT, credit="no"), "credit must be True or False; got 'no'"),
    "a strange autoreset": (
        lambda *_: gym.make_vec(ENVIRONMENT, vectorization_mode="vector_entry_point", autoreset_mode="NEXT_STEP"),
        "autoreset_mode must be one of AutoresetMode; got 'NEXT_STEP'",
    ),
    "one episode with an autoreset": (
        lambda *_: gym.make(ENVIRONMENT, autoreset_mode=AutoresetMode.SAME_STEP),
        "autoreset_mode is the vector form's, of gymnasium.make_vec",
    ),
    "a strange device": (
        lambda *_: gym.make(ENVIRONMENT, device="gpu"), "device must be one that torch knows; got 'gpu'; cpu is usual",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", OTHERS)
def test_other_functions(mistake: str, data: rl_det.Splits, detector: Any) -> None:
    call, message = OTHERS[mistake]
    with unchecked(), pytest.raises(UserError, match=message):
        call(data, detector)


class OfAll(Reward):
    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Any:
        return np.float64(1.0)


def test_a_reward_of_another_shape_is_refused() -> None:
    env = gym.make(ENVIRONMENT, pool_images=2, reward=OfAll(), credit=False)
    env.reset(seed=0)
    with (
        unchecked(),
        pytest.raises(UserError, match=r"a reward must be one number for each of the 1 episodes; .* the shape \(\)"),
    ):
        env.step(env.action_space.sample())


def test_an_index_that_is_no_whole_number_is_refused() -> None:
    env = gym.make(ENVIRONMENT, pool_images=2)
    for wrong in (1.7, None, [1]):
        with pytest.raises(ValueError, match="indices must be whole numbers; got"):
            env.reset(options={"index": wrong})


def test_a_message_that_shows_encodings_is_short(data: rl_det.Splits, detector: Any) -> None:
    assert len(repr(encode_dataset(detector, data.val))) < 200


def test_one_image_where_several_are_wanted_is_refused(data: rl_det.Splits, detector: Any, tmp_path: Path) -> None:
    result = rl_det.finetune(detector, data, rl_det.Supervised(), budget=TINY_BUDGET, out=tmp_path / "run")
    tuned = rl_det.load_tuned(result.best.export(tmp_path / "better"))
    picture = Image.new("RGB", (64, 64))
    assert len(tuned.detect([picture])) == 1
    for one, name in ((picture, "Image"), (torch.zeros(3, 64, 64), r"tensor \[3, H, W\]")):
        with unchecked(), pytest.raises(UserError, match=rf"several images; got one {name}; give \[image\]"):
            tuned.detect(one)


TINY_BUDGET = rl_det.Budget(
    num_updates=1, images_per_update=2, num_validations=1, max_views=1, num_draws=5, supervised_steps=1,
    supervised_validations=1,
)  # fmt: skip


@pytest.mark.parametrize("precision", [torch.float16, torch.float64])
def test_a_model_of_another_precision_is_taken_in_float32_and_this_is_said(
    precision: torch.dtype, data: rl_det.Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_model(num_classes=10).to(precision)
    detector = rl_det.load_detector(model, data)
    assert {each.dtype for each in detector.plain().parameters()} == {torch.float32}
    assert {each.dtype for each in model.parameters()} == {precision}, "the user's own stays as it is"
    assert len(detector.detect([data.test[0].image])) == 1
    name = str(precision).removeprefix("torch.")
    assert f"the model's weights in {name} are taken in float32" in capsys.readouterr().err
