"""A plain function as a reward: its credit is the counterfactual, by brute force, and what is no number is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract.environments import (
    ADJUST,
    NUM_CANDIDATES,
    REFINE,
    RESCORE,
    SELECT,
    TUNE,
    make_vector,
    random_actions,
    scenes,
    shipped,
)
from torchvision.ops import box_iou
from unchecked import unchecked

from rl_det.errors import NotFiniteError, UserError
from rl_det.types import Detections, Target

NUM_ENVS = 2


def worth(found: Detections, target: Target) -> float:
    """It depends on every box and score, and on the truth."""
    near = box_iou(found["boxes"], target.boxes) if len(target.boxes) else torch.zeros(len(found["boxes"]), 1)
    return float((found["scores"] * (near.amax(1) - 0.3)).sum()) if len(near) else 0.0


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    detector = shipped()
    return {"detector": detector, "dataset": scenes(detector), "num_candidates": NUM_CANDIDATES, "pool_images": 4}


def played(env_id: str, actions: torch.Tensor, options: dict[str, Any], reward: Any = worth) -> tuple[Any, Any]:
    """The reward and credit of an episode of one step."""
    few = {"num_steps": 1} if env_id == REFINE else {}
    envs = make_vector(env_id, NUM_ENVS, **options, **few, reward=reward)
    envs.reset(seed=1)
    _, rewards, _, _, told = envs.step(actions)
    return rewards, told["credit"]


@pytest.mark.parametrize("env_id", [RESCORE, SELECT, ADJUST, REFINE])
def test_credit_is_what_each_candidate_earns_alone(env_id: str, options: dict[str, Any]) -> None:
    actions = random_actions(env_id, NUM_ENVS, 0)
    nothing = torch.full_like(actions, 1.0 if env_id == SELECT else 0.0)
    _, credit = played(env_id, actions, options)
    base, _ = played(env_id, nothing, options)
    per_candidate = actions.view(NUM_ENVS, NUM_CANDIDATES, -1)
    for candidate in range(0, NUM_CANDIDATES, 5):
        for factor in range(2 if env_id == ADJUST else 1):
            alone = nothing.clone().view_as(per_candidate)
            numbers = [slice(0, 1), slice(1, 5)][factor] if env_id == ADJUST else slice(None)
            alone[:, candidate, numbers] = per_candidate[:, candidate, numbers]
            expected = played(env_id, alone.view_as(actions), options)[0] - base
            found = credit[:, candidate, factor] if env_id == ADJUST else credit[:, candidate]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert credit.abs().max() > 0


def test_of_settings_the_credit_is_the_reward_less_that_of_doing_nothing(options: dict[str, Any]) -> None:
    told: list[float] = []

    def heard(found: Detections, target: Target) -> float:
        told.append(worth(found, target))
        return told[-1]

    rewards, credit = played(TUNE, random_actions(TUNE, NUM_ENVS, 0), options, heard)
    np.testing.assert_allclose(rewards, told[:NUM_ENVS], atol=1e-6)
    np.testing.assert_allclose(credit[:, 0], np.array(told[:NUM_ENVS]) - told[NUM_ENVS:], atol=1e-6)
    assert len(told) == 2 * NUM_ENVS


@pytest.mark.parametrize(
    "returned",
    [None, "1.0", "many", [1.0], 1j, torch.ones(2), np.ones((2, 2)), {}],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_number_is_refused_in_one_sentence(returned: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a reward must be a number; the function returned") as refused:
        played(TUNE, random_actions(TUNE, NUM_ENVS, 0), options, lambda found, target: returned)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("returned", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("env_id", [TUNE, ADJUST])
def test_a_number_that_is_not_finite_is_refused_with_the_images_name(
    env_id: str, returned: float, options: dict[str, Any]
) -> None:
    first: list[Target] = []

    def worth_of_one(found: Detections, target: Target) -> float:
        first.append(target)
        return 0.0 if torch.equal(target.boxes, first[0].boxes) else returned  # of all but one image

    with pytest.raises(NotFiniteError, match=r"a reward is NaN or infinite, images \d+$"):
        played(env_id, random_actions(env_id, NUM_ENVS, 0), options, worth_of_one)


@pytest.mark.parametrize(
    "one", [lambda f, t: 1, lambda f, t: True, lambda f, t: np.float32(1), lambda f, t: torch.ones(1)]
)
def test_one_number_is_one_in_every_form(one: Callable[..., Any], options: dict[str, Any]) -> None:
    assert played(TUNE, random_actions(TUNE, NUM_ENVS, 0), options, one)[0].tolist() == [1.0] * NUM_ENVS


@pytest.mark.parametrize("wrong", [3, 0.5, ["f1"], {"f1": 1}])
def test_what_is_no_function_is_refused_when_the_environment_is_made(wrong: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="reward must be a name, a Reward or a function") as refused, unchecked():
        make_vector(TUNE, 2, **options, reward=wrong)
    assert "\n" not in str(refused.value)


def test_a_function_that_changes_its_target_leaves_the_truth(options: dict[str, Any]) -> None:
    def changing(found: Detections, target: Target) -> float:
        value = worth(found, target)
        target.boxes[:, 2:] -= target.boxes[:, :2]
        target.labels.zero_()
        return value

    actions = random_actions(RESCORE, NUM_ENVS, 0)
    for one, other in zip(played(RESCORE, actions, options), played(RESCORE, actions, options, changing), strict=True):
        assert np.array_equal(one, other)
