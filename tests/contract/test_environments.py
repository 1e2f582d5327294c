"""What every registered environment promises, in vector and in single form."""

import json
import pickle
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from contract.environments import (
    ENVIRONMENTS,
    NUM_CANDIDATES,
    NUM_IMAGES,
    OTHER_IDS,
    REFINE,
    SELECT,
    TUNE,
    make_vector,
    numbers,
    random_actions,
    scenes,
    shipped,
    with_other_ids,
)
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from rl_det.detectors import Detector
from rl_det.detectors.encodings import EncodedDataset
from rl_det.rewards import REWARDS

pytestmark = pytest.mark.parametrize("env_id", ENVIRONMENTS)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return shipped()


@pytest.fixture(scope="module")
def data(detector: Detector) -> EncodedDataset:
    return scenes(detector)


@pytest.fixture
def options(detector: Detector, data: EncodedDataset) -> dict[str, Any]:
    return {"detector": detector, "dataset": data, "num_candidates": NUM_CANDIDATES, "pool_images": 4}


def episode(env: Any, env_id: str, num_envs: int, seed: int) -> list[tuple[Any, ...]]:
    """All steps of one episode under random actions."""
    return [env.step(random_actions(env_id, num_envs, seed + step)) for step in range(env.num_steps)]


def test_gymnasium_and_sb3_find_nothing_to_complain_about(env_id: str, options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, **options, render_mode="rgb_array").unwrapped)
        check_env_for_sb3(gymnasium.make(env_id, **options))


def test_it_can_be_made_without_any_argument(env_id: str) -> None:
    env = gymnasium.make(env_id, num_candidates=8)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)


def test_the_vector_form_with_one_environment_is_the_single_form_step_for_step(
    env_id: str, options: dict[str, Any]
) -> None:
    single, vector = gymnasium.make(env_id, **options), make_vector(env_id, 1, **options)
    for number in range(NUM_IMAGES + 2):
        seed = 5 if number == 0 else None
        observation, info = single.reset(seed=seed)
        observations, infos = vector.reset(seed=seed)
        assert info == {"index": infos["indices"][0], "image_id": infos["image_ids"][0]}
        for step in range(vector.num_steps):
            for name, values in numbers(observations).items():
                np.testing.assert_array_equal(numbers(observation)[name], values[0].reshape(-1))
            actions = random_actions(env_id, 1, number + step)
            observation, reward, terminated, truncated, outcome = single.step(
                actions[0].numpy().astype(single.action_space.dtype)
            )
            observations, rewards, ended, cut, outcomes = vector.step(actions)
            assert reward == float(rewards[0])
            assert outcome.keys() == outcomes.keys()
            for name, values in outcomes.items():
                np.testing.assert_array_equal(outcome[name], values[0].numpy())
            assert (terminated, truncated) == (bool(ended[0]), bool(cut[0])) == (step + 1 == vector.num_steps, False)


def test_the_vector_form_declares_that_it_waits_for_reset(env_id: str, options: dict[str, Any]) -> None:
    envs = make_vector(env_id, 2, **options)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    envs.reset(seed=0)
    episode(envs, env_id, 2, 0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        envs.step(random_actions(env_id, 2, 0))


def test_next_step_resets_in_the_step_after_the_end_and_same_step_in_the_step_itself(
    env_id: str, options: dict[str, Any]
) -> None:
    waiting = make_vector(env_id, 2, **options)
    later = make_vector(env_id, 2, **options, autoreset_mode=AutoresetMode.NEXT_STEP)
    at_once = make_vector(env_id, 2, **options, autoreset_mode=AutoresetMode.SAME_STEP)
    assert later.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert at_once.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    info = waiting.reset(seed=3)[1]
    for envs in (later, at_once):
        assert envs.reset(seed=3)[1]["indices"].tolist() == info["indices"].tolist()
    for number in range(3):
        *_, last = episode(waiting, env_id, 2, number)
        *_, late = episode(later, env_id, 2, number)
        *_, same = episode(at_once, env_id, 2, number)
        following, info = waiting.reset()
        for step in (late, same):
            assert torch.equal(step[1], last[1])
            assert step[2].all()
        final = same[4]
        assert final["_final_info"].all()
        assert final["final_info"].keys() == last[4].keys()
        for name, values in numbers(last[0]).items():
            np.testing.assert_array_equal(numbers(final["final_obs"])[name], values)
        assert final["indices"].tolist() == info["indices"].tolist()
        observation, nothing, ended, cut, begun = later.step(random_actions(env_id, 2, number))
        assert begun["indices"].tolist() == info["indices"].tolist()
        assert not torch.stack((nothing.bool(), ended, cut)).any()
        for other in (observation, same[0]):
            for name, values in numbers(following).items():
                np.testing.assert_array_equal(numbers(other)[name], values)


def test_no_mode_steps_before_the_first_reset(env_id: str, options: dict[str, Any]) -> None:
    for mode in AutoresetMode:
        with pytest.raises(gymnasium.error.ResetNeeded):
            make_vector(env_id, 2, **options, autoreset_mode=mode).step(random_actions(env_id, 2, 0))


def test_an_image_can_be_asked_for_by_its_index_and_by_its_id(
    env_id: str, options: dict[str, Any], data: EncodedDataset
) -> None:
    """Two entries have the id 30; it means the first of them."""
    options = options | {"dataset": with_other_ids(data)}
    single, vector = gymnasium.make(env_id, **options), make_vector(env_id, 2, **options)
    plain = make_vector(env_id, 2, **options | {"dataset": data}).reset(seed=0, options={"indices": [4, 1]})[0]
    for asked in ({"indices": [4, 1]}, {"image_ids": [12, 30]}):
        observations, infos = vector.reset(seed=0, options=asked)
        assert infos["indices"].tolist() == vector.indices[:2] == [4, 1]
        assert infos["image_ids"].tolist() == [12, 30]
        for name, values in numbers(plain).items():
            np.testing.assert_array_equal(numbers(observations)[name], values)
    for alone in ({"index": 4}, {"image_id": 12}):
        observation, info = single.reset(seed=0, options=alone)
        assert info == {"index": 4, "image_id": 12}
        for name, values in numbers(plain).items():
            np.testing.assert_array_equal(numbers(observation)[name], values[0].reshape(-1))


def test_info_has_the_index_and_the_id_of_images_that_nobody_asked_for(
    env_id: str, options: dict[str, Any], data: EncodedDataset
) -> None:
    envs = make_vector(env_id, 3, **options | {"dataset": with_other_ids(data)})
    for _ in range(3):
        _, info = envs.reset()
        assert info["image_ids"].tolist() == [OTHER_IDS[index] for index in info["indices"].tolist()]


def test_an_unknown_image_is_refused_and_the_episode_goes_on(
    env_id: str, options: dict[str, Any], data: EncodedDataset
) -> None:
    options = options | {"dataset": with_other_ids(data)}
    single, vector = gymnasium.make(env_id, **options), make_vector(env_id, 2, **options)
    vector.reset(seed=0)
    no_id, no_index = r"an image_id must be in the data set; got 4;", r"a position in the data set, 0\.\.5; got 30"
    for message, alone, both in (
        (no_id, {"image_id": 4}, {"image_ids": [3, 4]}),
        (no_index, {"index": 30}, {"indices": [3, 30]}),
        (r"options must be .*; got \['seed'\]", {"seed": 3}, {"seed": 3}),
        (r"options must be .* or .*; got ", {"image_id": 3, "index": 0}, {"image_ids": [3, 1], "indices": [0, 2]}),
    ):
        with pytest.raises(ValueError, match=message):
            single.reset(options=alone)
        with pytest.raises(ValueError, match=message):
            vector.reset(options=both)
    for name in ("indices", "image_ids"):
        with pytest.raises(ValueError, match=rf"{name} must be 2 different images; got \[1, 1\]"):
            vector.reset(options={name: [1, 1]})
    vector.step(random_actions(env_id, 2, 0))


def test_observations_lie_in_their_space(env_id: str, options: dict[str, Any]) -> None:
    envs = make_vector(env_id, 3, **options)
    observations, _ = envs.reset(seed=0)
    for seen in (observations, *(step[0] for step in episode(envs, env_id, 3, 0))):
        arrays = numbers(seen)
        assert envs.observation_space.contains(arrays if isinstance(seen, dict) else arrays[""])


def test_equal_seeds_give_equal_episodes(env_id: str, options: dict[str, Any]) -> None:
    first, second = make_vector(env_id, 3, **options), make_vector(env_id, 3, **options)
    for number in range(4):
        seed = 11 if number == 0 else None
        assert first.reset(seed=seed)[1]["indices"].tolist() == second.reset(seed=seed)[1]["indices"].tolist()
        for step, other in zip(episode(first, env_id, 3, number), episode(second, env_id, 3, number), strict=True):
            assert torch.equal(step[1], other[1])


def test_every_image_comes_once_before_any_comes_again(env_id: str, options: dict[str, Any]) -> None:
    envs = make_vector(env_id, 2, **options | {"pool_images": 2})
    shown = []
    for number in range(NUM_IMAGES // 2):
        shown += envs.reset(seed=0 if number == 0 else None)[1]["indices"].tolist()
    assert sorted(shown) == list(range(NUM_IMAGES))


def test_a_fresh_environment_goes_on_from_the_state_of_another(env_id: str, options: dict[str, Any]) -> None:
    first, second = make_vector(env_id, 2, **options), make_vector(env_id, 2, **options)
    for number in range(2):
        first.reset(seed=7 if number == 0 else None)
    state = first.state_dict()
    assert isinstance(state["generator"], str)
    assert all(type(index) is int for index in state["queue"])
    expected = [first.reset()[1]["indices"].tolist() for _ in range(8)]
    for seed in (None, 0):
        if seed is not None:
            second.reset(seed=seed)
        second.load_state_dict(json.loads(json.dumps(state)))
        assert [second.reset()[1]["indices"].tolist() for _ in range(8)] == expected
        assert json.loads(second.state_dict()["generator"]) == json.loads(first.state_dict()["generator"])


def test_the_state_of_a_larger_data_set_is_refused(env_id: str, options: dict[str, Any], data: EncodedDataset) -> None:
    few = EncodedDataset(data.encoded[slice(0, 2)], data.targets[:2])
    envs = make_vector(env_id, 2, **options | {"dataset": few})
    state = envs.state_dict() | {"queue": [1, 5]}
    with pytest.raises(ValueError, match="the state must be of a data set of 2 images; it has the index 5"):
        envs.load_state_dict(state)


def test_a_pickled_environment_goes_on_as_the_first_would(env_id: str, options: dict[str, Any]) -> None:
    for first in (make_vector(env_id, 2, **options), gymnasium.make(env_id, **options)):
        first.reset(seed=0)
        second = pickle.loads(pickle.dumps(first))
        actions = random_actions(env_id, 2, 0)
        action = actions if hasattr(first, "num_envs") else actions[0].numpy()
        assert np.array_equal(first.step(action)[1], second.step(action)[1])
        ours, theirs = first.reset()[0], second.reset()[0]
        for name, values in numbers(ours).items():
            np.testing.assert_array_equal(numbers(theirs)[name], values)


def test_samples_of_one_image_share_its_observation(env_id: str, options: dict[str, Any]) -> None:
    envs = make_vector(env_id, 6, **options, samples_per_image=3)
    observation, info = envs.reset(seed=0)
    assert info["indices"].tolist() == [index for index in envs.indices[:2] for _ in range(3)]
    values = numbers(observation)["" if env_id == TUNE else "logits"]
    assert np.array_equal(values[0], values[2])
    assert not np.array_equal(values[2], values[3])


@pytest.mark.parametrize("reward", REWARDS)
def test_images_without_objects_or_without_candidates_are_episodes_like_others(
    env_id: str, detector: Detector, data: EncodedDataset, reward: str
) -> None:
    encoded = data.encoded[slice(0, 3)]
    encoded.mask[1] = False
    bare = EncodedDataset(encoded, data.targets[:3])
    envs = make_vector(
        env_id, 3, detector=detector, dataset=bare, num_candidates=NUM_CANDIDATES, reward=reward, pool_images=3
    )
    _, info = envs.reset(seed=0)
    for _, rewards, _, _, outcome in episode(envs, env_id, 3, 0):
        assert rewards.isfinite().all()
        if env_id != TUNE:
            assert outcome["credit"].isfinite().all()
            assert not outcome["credit"][info["indices"].tolist().index(1)].any()


@pytest.mark.parametrize(
    ("number", "message"),
    [("shape", "shape"), ("nan", r"finite; got nan at \[1, 0"), ("far", r"lie in \[(0|-1), 1\]; got 1.5 at \[1, 0")],
)
def test_a_bad_action_is_refused_and_the_episode_goes_on(
    env_id: str, options: dict[str, Any], number: str, message: str
) -> None:
    actions = random_actions(env_id, 2, 0)
    actions[1].view(-1)[0] = {"nan": torch.nan, "far": 1.5}.get(number, 0.0)
    envs = make_vector(env_id, 2, **options)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        envs.step(actions[:, :3] if number == "shape" else actions)
    envs.step(random_actions(env_id, 2, 0))


def test_impossible_arguments_are_refused_by_name(env_id: str, options: dict[str, Any], data: EncodedDataset) -> None:
    for wrong, message in (
        ({"reward": "map"}, r"ap50.*batch_ap.*cost.*f1.*image_ap.*lrp.*matched_sum.*pool_ap.*pool_cost.*got 'map'"),
        ({"samples_per_image": 4}, "samples_per_image"),
        ({"num_candidates": 0}, "num_candidates must be at least 1; got 0"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"dataset": EncodedDataset(data.encoded[slice(0, 0)], [])}, "dataset must hold one image at least"),
    ):
        with pytest.raises(ValueError, match=message):
            make_vector(env_id, 6, **options | wrong)
    with pytest.raises(ValueError, match="num_envs must be a positive multiple"):
        make_vector(env_id, 0, **options)
    with pytest.raises(ValueError, match=r"at most the 6 images of the data set; got 7"):
        make_vector(env_id, 7, **options)
    if env_id == REFINE:
        with pytest.raises(ValueError, match="num_steps must be at least 1; got 0"):
            make_vector(env_id, 1, **options, num_steps=0)


def test_a_picture_shows_each_sub_environment(env_id: str, options: dict[str, Any]) -> None:
    envs = make_vector(env_id, 2, **options, render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.render()
    envs.reset(seed=0)
    untouched = envs.render()
    episode(envs, env_id, 2, 0)
    touched = envs.render()
    assert [picture.shape[2] for picture in touched] == [3, 3]
    assert all(picture.dtype == np.uint8 for picture in touched)
    assert any(not np.array_equal(before, after) for before, after in zip(untouched, touched, strict=True))
    assert make_vector(env_id, 2, **options).render() is None


def test_pictures_need_images(env_id: str, options: dict[str, Any], data: EncodedDataset) -> None:
    blind = EncodedDataset(data.encoded, data.targets)
    envs = make_vector(env_id, 1, **options | {"dataset": blind}, render_mode="rgb_array")
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="render needs the images"):
        envs.render()


@pytest.mark.parametrize("num_candidates", [1, 300])
def test_a_thousand_random_episodes_end_without_an_error(
    env_id: str, detector: Detector, data: EncodedDataset, num_candidates: int
) -> None:
    encoded = data.encoded[slice(None)]
    encoded.mask[1], encoded.mask[3, 1:] = False, False  # no candidate; those of one proposal
    targets = list(data.targets)
    targets[4].iscrowd[:2] = True
    odd = EncodedDataset(encoded, targets)
    rng, per_call = np.random.default_rng(0), 6 * 10
    credit = num_candidates == 1 or env_id in (TUNE, SELECT)  # the credit of 300 moving boxes takes its time
    envs = make_vector(
        env_id, per_call, detector=detector, dataset=odd, num_candidates=num_candidates, samples_per_image=10,
        pool_images=6, credit=credit,
    )  # fmt: skip
    for number in range(-(-1000 // per_call)):
        envs.reset(seed=number)
        for _ in range(envs.num_steps):
            actions = (
                rng.integers(0, 2, envs.action_space.shape)
                if env_id == SELECT
                else rng.uniform(-1, 1, envs.action_space.shape)
            )
            observation, rewards, *_ = envs.step(actions)
            assert rewards.isfinite().all()
            assert all(np.isfinite(values).all() for values in numbers(observation).values())
