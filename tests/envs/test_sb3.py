"""The adapter for Stable-Baselines3: against SB3's own `DummyVecEnv`, under SB3's wrappers, and under its PPO."""

import pickle
from pathlib import Path
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
    with_other_ids,
)
from gymnasium.vector import AutoresetMode
from rl_det_envs.sb3 import DetectorVecEnv
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from rl_det.detectors.encodings import EncodedDataset


def adapted(env_id: str, num_envs: int, **options: Any) -> DetectorVecEnv:
    """The adapter that passes actions on as they are."""
    envs = make_vector(env_id, num_envs, **options)
    return DetectorVecEnv(envs, action_scale=envs.action_scale if envs.usual_exploration else None)


def actions_for(envs: Any, env_id: str, seed: int) -> np.ndarray:
    return random_actions(env_id, envs.num_envs, seed).numpy().astype(envs.action_space.dtype)


def assert_equal(found: Any, expected: Any) -> None:
    """Of observations and infos: the same names, numbers, shapes and types."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_equal(found[name], expected[name])
    else:
        assert np.asarray(found).dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(found, expected, strict=isinstance(expected, np.ndarray))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_with_one_sub_environment_it_is_sb3s_dummy_of_the_single_form_step_for_step(
    env_id: str, options: dict[str, Any]
) -> None:
    ours, theirs = adapted(env_id, 1, **options), DummyVecEnv([lambda: gymnasium.make(env_id, **options)])
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for envs in (ours, theirs):
        assert envs.seed(7) == [7]
    assert_equal(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    for step in range(3 * NUM_IMAGES):
        actions = actions_for(ours, env_id, step)
        (observation, reward, done, infos), expected = ours.step(actions), theirs.step(actions)
        assert_equal(observation, expected[0])
        assert_equal(reward, expected[1])
        assert_equal(done, expected[2])
        assert_equal(infos[0], expected[3][0])
        assert done[0] == (env_id != REFINE or step % 3 == 2)
        assert ours.reset_infos == theirs.reset_infos


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_each_sub_environment_has_its_own_row(env_id: str, options: dict[str, Any]) -> None:
    envs, vector = (
        adapted(env_id, 4, **options, samples_per_image=2),
        make_vector(env_id, 4, **options, samples_per_image=2),
    )
    envs.seed(3)
    first = envs.reset()
    seen, begun = vector.reset(seed=3)
    for name, plural in (("index", "indices"), ("image_id", "image_ids")):
        assert [info[name] for info in envs.reset_infos] == begun[plural].tolist()
    for name, values in numbers(seen).items():
        np.testing.assert_array_equal(numbers(first)[name], values.reshape(4, -1))
    for number in range(vector.num_steps):
        actions = actions_for(envs, env_id, number)
        _, rewards, _, infos = envs.step(actions)
        last, expected, _, _, told = vector.step(torch.from_numpy(actions))
        np.testing.assert_array_equal(rewards, expected.numpy())
        for row, info in enumerate(infos):
            for name, values in told.items():
                np.testing.assert_array_equal(info[name], values[row].numpy())
    for name, values in numbers(last).items():
        np.testing.assert_array_equal(numbers(infos[3]["terminal_observation"])[name], values[3].reshape(-1))


def test_what_is_observed_can_be_written_to_without_harm(options: dict[str, Any]) -> None:
    envs, untouched = (adapted(REFINE, 2, **options) for _ in range(2))
    for each in (envs, untouched):
        each.seed(0)
    for values in envs.reset().values():
        values[:] = 0
    untouched.reset()
    actions = actions_for(envs, REFINE, 0)
    assert_equal(envs.step(actions)[0], untouched.step(actions)[0])


def test_images_can_be_asked_for_by_index_and_by_id_and_a_mistake_leaves_it_usable(
    options: dict[str, Any], data: EncodedDataset
) -> None:
    """Two entries have the id 30; it means the first of them."""
    envs = adapted(TUNE, 4, **options | {"dataset": with_other_ids(data)}, samples_per_image=2)
    infos = [{"index": index, "image_id": OTHER_IDS[index]} for index in (4, 4, 1, 1)]
    for name in ("index", "image_id"):
        envs.set_options([{name: info[name]} for info in infos])
        envs.reset()
        assert envs.reset_infos == infos
    for each, message in (
        ({"image_id": 4}, "image_ids must be 2 different images"),
        ([{"image_id": image_id} for image_id in (3, 3, 4, 4)], "an image_id must be in the data set; got 4"),
        ([{"index": index} for index in (3, 3, 30, 30)], r"a position in the data set, 0\.\.5; got 30"),
        ([{"image_id": 3}, {}, {}, {}], r"{'image_id': \.\.\.} for each; got {'image_id': 3} and {}"),
        ([{"image_id": 3}, {"image_id": 3}, {"index": 1}, {"index": 1}], "got {'image_id': 3} and {'index': 1}"),
    ):
        envs.set_options(each)
        with pytest.raises(ValueError, match=message):
            envs.reset()
    envs.reset()
    with pytest.raises(ValueError, match="finite"):
        envs.step(np.full((4, 4), np.nan))
    envs.step(np.zeros((4, 4)))


def test_only_a_vector_environment_that_waits_for_reset_is_taken(options: dict[str, Any]) -> None:
    at_once = make_vector(TUNE, 2, **options, autoreset_mode=AutoresetMode.SAME_STEP)
    one_by_one = gymnasium.make_vec(TUNE, num_envs=2, vectorization_mode="sync", vector_kwargs={}, **options)
    for wrong in (at_once, one_by_one):
        with pytest.raises(ValueError, match="envs must be a vector environment of rl_det"):
            DetectorVecEnv(wrong)


def test_attributes_and_methods_are_the_vector_form(options: dict[str, Any]) -> None:
    envs = adapted(TUNE, 3, **options, render_mode="rgb_array")
    assert envs.get_attr("num_candidates") == [NUM_CANDIDATES] * 3
    assert envs.get_attr("action_space", indices=[0, 2]) == [envs.action_space] * 2
    assert envs.has_attr("detector")
    assert not envs.has_attr("colour")
    envs.set_attr("render_mode", "none")
    assert envs.get_attr("render_mode", indices=1) == ["none"]
    described = envs.env_method("describe")
    assert len(described) == 3
    assert described[0].shape == (NUM_IMAGES, 32)
    assert envs.env_is_wrapped(Monitor) == [False] * 3
    for refused in (lambda: envs.set_attr("credit", True, indices=0), lambda: envs.env_method("describe", indices=[1])):
        with pytest.raises(ValueError, match="indices must be None"):
            refused()
    envs.close()


def test_a_picture_shows_all_sub_environments(options: dict[str, Any]) -> None:
    envs = adapted(TUNE, 4, **options, render_mode="rgb_array")
    envs.reset()
    one = envs.get_images()[0]
    assert one is not None
    tiled = envs.render()
    assert tiled is not None
    assert tiled.shape == (2 * one.shape[0], 2 * one.shape[1], 3)
    assert adapted(TUNE, 2, **options).get_images() == [None, None]


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_pickled_adapter_goes_on_as_the_first_would(env_id: str, options: dict[str, Any]) -> None:
    first = adapted(env_id, 2, **options)
    first.seed(0)
    first.reset()
    second = pickle.loads(pickle.dumps(first))
    for step in range(4):
        actions = actions_for(first, env_id, step)
        ours, theirs = first.step(actions), second.step(actions)
        assert_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_sb3s_wrappers_go_around_it(options: dict[str, Any]) -> None:
    envs = VecNormalize(VecMonitor(adapted(TUNE, 3, **options)))
    envs.seed(0)
    envs.reset()
    rewards = []
    for step in range(5):
        observation, _, _, infos = envs.step(actions_for(envs, TUNE, step))
        rewards += envs.get_original_reward().tolist()
        assert [info["episode"]["l"] for info in infos] == [1, 1, 1]
        assert np.isfinite(observation).all()
    assert envs.ret_rms.count > 10
    assert min(rewards) < max(rewards) <= 1


@pytest.mark.parametrize(("env_id", "policy"), [(TUNE, "MlpPolicy"), (SELECT, "MultiInputPolicy")])
def test_sb3s_ppo_trains_evaluates_saves_and_loads_on_it(
    env_id: str, policy: str, options: dict[str, Any], tmp_path: Path
) -> None:
    envs = VecMonitor(adapted(env_id, 3, **options, credit=False))
    every_image = VecMonitor(adapted(env_id, NUM_IMAGES, **options, credit=False))
    best = EvalCallback(
        every_image, n_eval_episodes=NUM_IMAGES, eval_freq=8, best_model_save_path=str(tmp_path), verbose=0
    )
    model = PPO(policy, envs, n_steps=8, batch_size=12, n_epochs=2, seed=0, device="cpu")
    model.learn(48, callback=best)
    assert model.num_timesteps == 48
    model.save(tmp_path / "last")
    loaded = PPO.load(tmp_path / "last", env=envs, device="cpu")
    observation = envs.reset()
    assert_equal(loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0])
    found, _ = evaluate_policy(PPO.load(tmp_path / "best_model", device="cpu"), every_image, NUM_IMAGES)
    assert found == pytest.approx(best.best_mean_reward, abs=1e-6)


def test_sb3s_ppo_learns_on_it_what_a_threshold_is_for(options: dict[str, Any]) -> None:
    """It begins by showing nearly all that there is."""
    options = options | {"num_candidates": 100}
    every_image = VecMonitor(adapted(TUNE, NUM_IMAGES, **options))
    model = PPO(
        "MlpPolicy", VecMonitor(adapted(TUNE, NUM_IMAGES, **options)), n_steps=16, batch_size=96, n_epochs=8,
        learning_rate=1e-2, gamma=0.0, seed=0, device="cpu", policy_kwargs={"log_std_init": -1.0},
    )  # fmt: skip
    with torch.no_grad():
        model.policy.action_net.bias.copy_(torch.tensor([-1.0, 0.5, -1.0, 1.0]))
    before, _ = evaluate_policy(model, every_image, NUM_IMAGES)
    model.learn(1500)
    after, _ = evaluate_policy(model, every_image, NUM_IMAGES)
    assert after > before + 0.1, (before, after)
