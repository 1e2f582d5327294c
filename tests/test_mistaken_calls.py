"""What a person who is new to it passes to a function by mistake: one sentence says what must come instead."""

import copy
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
from rl_det.rewards import Edits, MatchedSum, PoolAp, Reward, Worth, best_iou
from rl_det.training.loop import Callback

ENVIRONMENT = "rl_det/RescoreDetections-v0"


@pytest.fixture(scope="module")
def data() -> rl_det.Splits:
    return rl_det.digit_scenes(2, 2, 2)


@pytest.fixture(scope="module")
def detector(data: rl_det.Splits) -> Any:
    return rl_det.load_detector("tiny", data)


def on_meta(detector: Any) -> Any:
    copied = copy.deepcopy(detector)
    copied.plain().to("meta")
    return copied


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
    "a device without numbers": (
        lambda *_: gym.make(ENVIRONMENT, device="meta"), "device must be one that torch can use here; got 'meta'",
    ),
    "another device": (
        lambda data, detector: gym.make(ENVIRONMENT, detector=on_meta(detector), dataset=data.val, device="cpu"),
        "device must be the detector's, meta; got 'cpu'; leave it out",
    ),
    "a value as a reward": (lambda *_: rl_det.PPO(reward=MatchedSum()), r"must take detections and target.*by Worth\(value\)"),
    "a potential as a reward": (lambda *_: rl_det.PPO(reward=best_iou), "a potential by PotentialShaping"),
    "a function as a value": (lambda *_: Worth(lambda found, target: 1.0), "value must take edits alone; got .*reward=..."),
    "a reward as a value": (lambda *_: Worth(PoolAp()), "value must take edits alone; got PoolAp"),
    "a strange device": (
        lambda *_: gym.make(ENVIRONMENT, device="gpu"), "device must be one that torch can use here; got 'gpu'; cpu is usual",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", OTHERS)
def test_other_functions(mistake: str, data: rl_det.Splits, detector: Any) -> None:
    call, message = OTHERS[mistake]
    with unchecked(), pytest.raises(UserError, match=message):
        call(data, detector)


class OfAll(Reward):
    def __init__(self, earned: Any) -> None:
        self.earned = earned

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Any:
        return self.earned


@pytest.mark.parametrize("credit", [False, True])
@pytest.mark.parametrize(
    ("earned", "told"), [(1.0, "float"), ([1.0], "list"), (np.zeros((1, 2)), r"an array of the shape \(1, 2\)")]
)
def test_a_reward_of_another_shape_is_refused(earned: Any, told: str, credit: bool) -> None:
    env = gym.make(ENVIRONMENT, pool_images=2, reward=OfAll(earned), credit=credit)
    env.reset(seed=0)
    with (
        unchecked(),
        pytest.raises(
            UserError, match=rf"a reward must be an array of one number for each of the . episodes; .* {told}$"
        ),
    ):
        env.step(env.action_space.sample())


def test_a_reward_too_large_for_single_precision_is_refused_as_infinite() -> None:
    env = gym.make(ENVIRONMENT, pool_images=2, reward=lambda found, target: 1e300, credit=False)
    env.reset(seed=0)
    with pytest.raises(UserError, match="a reward is NaN or infinite, images"):
        env.step(env.action_space.sample())


def test_an_action_of_another_shape_is_refused_in_the_form_that_was_asked() -> None:
    env = gym.make(ENVIRONMENT, pool_images=2, num_candidates=8)
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"an action must have shape \(8,\); got \(1, 8\)"):
        env.step(np.zeros((1, 8), dtype=np.float32))


def test_an_index_that_is_no_whole_number_is_refused() -> None:
    env = gym.make(ENVIRONMENT, pool_images=2)
    for wrong in (1.7, None, [1]):
        with pytest.raises(UserError, match="index must be a whole number; got"):
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
