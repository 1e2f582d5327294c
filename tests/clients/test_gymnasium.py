"""Gymnasium's wrappers around every environment, partial resets, and what Gymnasium's own SyncVectorEnv would do."""

from collections.abc import Callable
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
    REFINE,
    SELECT,
    TUNE,
    make_vector,
    numbers,
    random_actions,
)
from gymnasium import wrappers as single
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector
from rl_det_envs.torch_to_numpy import TorchToNumpy

from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.encodings import EncodedDataset, encode_dataset
from rl_det.errors import UserError

NUM_ENVS, NUM_STEPS = 3, 3
Wrapper = Callable[[Any], Any]

WRAPPERS: dict[str, Wrapper] = {
    "none": lambda envs: envs,
    "RecordEpisodeStatistics": vector.RecordEpisodeStatistics,
    "NormalizeReward": vector.NormalizeReward,
    "DictInfoToList": vector.DictInfoToList,
    "ClipReward": lambda envs: vector.ClipReward(envs, 0.0, 1.0),
    "TransformReward": lambda envs: vector.TransformReward(envs, lambda reward: 2 * reward),
    "VectorizeTransformReward": lambda envs: vector.VectorizeTransformReward(
        envs, single.TransformReward, func=lambda reward: 2 * reward
    ),
    "TransformAction": lambda envs: vector.TransformAction(envs, lambda action: action),
    "TransformObservation": lambda envs: vector.TransformObservation(envs, lambda seen: seen),
    "FlattenObservation": vector.FlattenObservation,
    "RecordEpisodeStatistics, ClipReward, DictInfoToList": lambda envs: vector.DictInfoToList(
        vector.ClipReward(vector.RecordEpisodeStatistics(envs), 0.0, 1.0)
    ),
}
OF_A_BOX_OF_ACTIONS: dict[str, Wrapper] = {
    "ClipAction": vector.ClipAction,
    "RescaleAction": lambda envs: vector.RescaleAction(envs, np.float32(0), np.float32(1)),
}
OF_A_DICTIONARY: dict[str, Wrapper] = {"FilterObservation": lambda envs: vector.FilterObservation(envs, ["logits"])}
OF_A_VECTOR: dict[str, Wrapper] = {
    "DtypeObservation": lambda envs: vector.DtypeObservation(envs, np.float64),
    "RescaleObservation": lambda envs: vector.RescaleObservation(envs, np.float32(-1), np.float32(1)),
}


def numpy_form(env_id: str, num_envs: int = NUM_ENVS, **options: Any) -> TorchToNumpy:
    return TorchToNumpy(make_vector(env_id, num_envs, **options))


def that_fit(env_id: str) -> dict[str, Wrapper]:
    actions = {} if env_id == SELECT else OF_A_BOX_OF_ACTIONS
    return WRAPPERS | actions | (OF_A_VECTOR if env_id == TUNE else OF_A_DICTIONARY)


def only_numpy(values: Any) -> bool:
    if isinstance(values, dict):
        return all(only_numpy(part) for part in values.values())
    return isinstance(values, np.ndarray | np.generic)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # DtypeObservation's own
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_every_vector_wrapper_that_fits_works_in_numpy(env_id: str, options: dict[str, Any]) -> None:
    envs = numpy_form(env_id, **options)
    for name, wrap in that_fit(env_id).items():
        wrapped = wrap(envs)
        wrapped.action_space.seed(0)
        observation, info = wrapped.reset(seed=0)
        assert wrapped.observation_space.contains(observation), name
        for _ in range(envs.unwrapped.num_steps):  # type: ignore[attr-defined]
            observation, rewards, terminated, truncated, info = wrapped.step(wrapped.action_space.sample())
            assert wrapped.observation_space.contains(observation), name
            assert isinstance(rewards, np.ndarray), name
            assert terminated.dtype == truncated.dtype == np.bool_, name
        assert all(only_numpy(own) for own in info) if isinstance(info, list) else only_numpy(info), name
        everything = np.ones(NUM_ENVS, dtype=np.bool_)
        wrapped.reset(options={"reset_mask": everything})


def test_episode_statistics_are_the_episodes_returns_and_lengths(options: dict[str, Any]) -> None:
    for mode in AutoresetMode:
        envs = vector.RecordEpisodeStatistics(numpy_form(REFINE, **options, autoreset_mode=mode))
        envs.reset(seed=0)
        total = np.zeros(NUM_ENVS)
        for step in range(NUM_STEPS):
            _, rewards, _, _, info = envs.step(random_actions(REFINE, NUM_ENVS, step).numpy())
            total += rewards
        np.testing.assert_allclose(info["episode"]["r"], total, atol=1e-6)
        assert info["episode"]["l"].tolist() == [NUM_STEPS] * NUM_ENVS
        assert len(envs.return_queue) == NUM_ENVS


def test_around_tensors_the_statistics_are_refused_by_gymnasium_and_around_numpy_they_are_not() -> None:
    envs = gymnasium.make_vec(TUNE, num_envs=3)
    assert not isinstance(envs.reset(seed=0)[0], np.ndarray)
    recorded = vector.RecordEpisodeStatistics(TorchToNumpy(envs))
    recorded.reset(seed=0)
    told = recorded.step(recorded.action_space.sample())[4]["episode"]
    assert told["r"].shape == (3,)
    assert (told["l"] == 1).all()


def test_observations_of_a_box_are_normalised_where_gymnasium_allows_it(options: dict[str, Any]) -> None:
    envs = vector.NormalizeObservation(numpy_form(TUNE, **options, autoreset_mode=AutoresetMode.NEXT_STEP))
    envs.reset(seed=0)
    seen = [envs.step(envs.action_space.sample())[0] for _ in range(8)]
    assert np.isfinite(seen).all()
    assert envs.obs_rms.count > 8


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_numpy_form_has_the_numbers_of_the_tensors_in_every_mode(env_id: str, options: dict[str, Any]) -> None:
    for mode in AutoresetMode:
        ours, tensors = (make(env_id, NUM_ENVS, **options, autoreset_mode=mode) for make in (numpy_form, make_vector))
        assert_same(ours.reset(seed=0), tensors.reset(seed=0))
        for step in range(tensors.num_steps):
            actions = random_actions(env_id, NUM_ENVS, step)
            found, expected = ours.step(actions.numpy()), tensors.step(actions)
            assert_same(found, expected)
        assert ("final_obs" in found[4]) is (mode is AutoresetMode.SAME_STEP)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, tuple):
        for own, other in zip(found, expected, strict=True):
            assert_same(own, other)
    else:
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, expected.numpy())


def test_gymnasiums_own_conversion_gives_the_same(options: dict[str, Any]) -> None:
    pytest.importorskip("array_api_compat", reason="array-api-compat is not installed, which ArrayConversion needs")
    for mode in AutoresetMode:
        theirs = vector.ArrayConversion(
            make_vector(REFINE, NUM_ENVS, **options, autoreset_mode=mode), env_xp=torch, target_xp=np
        )
        tensors = make_vector(REFINE, NUM_ENVS, **options, autoreset_mode=mode)
        assert_same(theirs.reset(seed=0), tensors.reset(seed=0))
        for step in range(NUM_STEPS):
            actions = random_actions(REFINE, NUM_ENVS, step)
            assert_same(theirs.step(actions.numpy()), tensors.step(actions))


def test_what_is_observed_in_numpy_can_be_written_to_without_harm(options: dict[str, Any]) -> None:
    ours, untouched = numpy_form(REFINE, **options), numpy_form(REFINE, **options)
    for values in ours.reset(seed=0)[0].values():
        values[...] = 0
    untouched.reset(seed=0)
    actions = random_actions(REFINE, NUM_ENVS, 0).numpy()
    np.testing.assert_array_equal(ours.step(actions)[1], untouched.step(actions)[1])


def test_a_video_shows_the_pictures(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("moviepy", reason="MoviePy is not installed, which RecordVideo needs")
    envs = vector.RecordVideo(
        numpy_form(TUNE, **options, render_mode="rgb_array"),
        str(tmp_path / "videos"),
        episode_trigger=lambda episode: True,
    )
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.close()
    assert list(tmp_path.glob("videos/*.mp4"))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_wrappers_of_one_environment_work_on_the_single_form(env_id: str, options: dict[str, Any]) -> None:
    env = gymnasium.make(env_id, **options)
    each: list[Wrapper] = [
        single.RecordEpisodeStatistics,
        single.FlattenObservation,
        single.NormalizeReward,
        lambda own: single.TimeLimit(own, 2),
        lambda own: single.TransformReward(own, lambda reward: 2 * reward),
        single.Autoreset,
    ]
    if env_id != SELECT:
        each += [lambda own: single.RescaleAction(own, np.float32(0), np.float32(1)), single.ClipAction]
    if env_id != TUNE:
        each += [lambda own: single.FilterObservation(own, ["logits"])]
    for wrap in each:
        wrapped = wrap(env)
        wrapped.action_space.seed(0)
        observation, _ = wrapped.reset(seed=0)
        assert wrapped.observation_space.contains(observation)
        observation, reward, *_ = wrapped.step(wrapped.action_space.sample())
        assert wrapped.observation_space.contains(observation)
        assert np.isfinite(reward)


def test_a_time_limit_truncates_and_the_statistics_know(options: dict[str, Any]) -> None:
    env = single.RecordEpisodeStatistics(single.TimeLimit(gymnasium.make(REFINE, **options), 2))
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, dtype=np.float32)  # type: ignore[arg-type]
    env.step(action)
    _, _, terminated, truncated, info = env.step(action)
    assert (terminated, truncated) == (False, True)
    assert info["episode"]["l"] == 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 0.9), (-3.3, 3.1)])
def test_an_action_at_the_border_is_taken_whatever_rescaling_makes_of_it(
    low: float, high: float, options: dict[str, Any]
) -> None:
    plain = gymnasium.make(TUNE, **options)
    scaled = single.RescaleAction(plain, np.float32(low), np.float32(high))
    plain.reset(seed=0)
    expected = plain.step(plain.action_space.high)[1]  # type: ignore[attr-defined]
    scaled.reset(seed=0)
    assert scaled.step(scaled.action_space.high)[1] == expected  # type: ignore[attr-defined]


def test_each_image_comes_once_although_others_fill_the_pool(options: dict[str, Any]) -> None:
    env = gymnasium.make(TUNE, **options)
    env.reset(seed=0)
    for _ in range(3):
        env.reset(seed=0)
        first = env.unwrapped.batched.indices[0]  # type: ignore[attr-defined]
        shown = [env.reset()[1]["index"] for _ in range(NUM_IMAGES - 1)]
        assert sorted([first, *shown]) == list(range(NUM_IMAGES))
        assert sorted(env.reset()[1]["index"] for _ in range(NUM_IMAGES)) == list(range(NUM_IMAGES))


def test_eight_at_once_show_forty_images_in_five_resets(detector: Detector) -> None:
    data = encode_dataset(detector, DigitScenes("train", num_scenes=40))
    envs = make_vector(TUNE, 8, detector=detector, dataset=data, pool_images=32)
    shown = [index for seed in (0, *[None] * 9) for index in envs.reset(seed=seed)[1]["indices"].tolist()]
    assert sorted(shown[:40]) == sorted(shown[40:]) == list(range(40))


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_data_set_of_other_classes_than_the_detectors_is_refused_when_it_is_made(
    env_id: str, data: EncodedDataset
) -> None:
    other = build_detector("tiny", num_classes=2)
    message = "the data set has 10 classes, the detector 2; give detector="
    with pytest.raises(UserError, match=message) as refused:
        make_vector(env_id, 2, detector=other, dataset=data)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=message):
        gymnasium.make(env_id, detector=other, dataset=DigitScenes("train", num_scenes=2))


# Partial resets.


def played_alone(image: int, plan: list[int], options: dict[str, Any]) -> list[float]:
    """The rewards of one sub-environment by itself, as SyncVectorEnv holds it; the pool is the whole data set."""
    env = make_vector(REFINE, 1, **options)
    env.reset(seed=0, options={"indices": [image]})
    return [float(env.step(random_actions(REFINE, NUM_ENVS, seed)[:1])[1][0]) for seed in plan]


@pytest.mark.parametrize("reward", ["pool_ap", "image_ap", "image_ap_delta", "f1"])
def test_after_a_partial_reset_each_episode_earns_what_it_would_by_itself(reward: str, options: dict[str, Any]) -> None:
    """Row 0 begins anew after one step, row 1 after two: episodes of all ages go on together, and end apart."""
    options = options | {"pool_images": NUM_IMAGES, "reward": reward}
    envs = make_vector(REFINE, NUM_ENVS, **options)
    _, info = envs.reset(seed=3)
    images, earned = [[int(image)] for image in info["indices"]], [[[]] for _ in range(NUM_ENVS)]  # type: ignore[var-annotated]
    same = torch.stack([random_actions(REFINE, NUM_ENVS, seed)[0] for seed in range(5)])
    ends = []
    for step in range(5):
        _, rewards, terminated, _, outcome = envs.step(same[step].expand(NUM_ENVS, -1))
        assert outcome["credit"].isfinite().all()
        ends.append(terminated.tolist())
        for row, own in enumerate(rewards.tolist()):
            earned[row][-1].append((step, own))
        anew = terminated | torch.tensor([step == 0, step == 1, False])
        if anew.any():
            seen, info = envs.reset(options={"reset_mask": anew.numpy()})
            assert seen["step"][anew].sum() == 0
            for row in torch.nonzero(anew).flatten().tolist():
                images[row].append(int(info["indices"][row]))
                earned[row].append([])
    assert ends == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    for row in range(NUM_ENVS):
        for image, own in zip(images[row], earned[row], strict=True):
            alone = played_alone(image, [step for step, _ in own], options)
            np.testing.assert_allclose([value for _, value in own], alone, atol=1e-6)


def test_with_pools_of_their_own_the_rewards_of_an_episode_still_add_up(options: dict[str, Any]) -> None:
    """A walk out and back earns nothing, although in its midst others begin anew and the pool is drawn again."""
    envs = make_vector(REFINE, 2, **options | {"num_steps": 2})
    for seed in range(6):
        envs.reset(seed=seed)
        out = torch.zeros(2, NUM_CANDIDATES, 4)
        out[..., 2:] = -0.5  # smaller about the same centre: no edge is near
        there = envs.step(out.flatten(1))[1]
        envs.reset(options={"reset_mask": np.array([False, True])})
        back = envs.step(-out.flatten(1))[1]
        assert float(there[0]) == pytest.approx(-float(back[0]), abs=1e-5)


def test_credits_after_a_partial_reset_are_those_of_the_episode_by_itself(options: dict[str, Any]) -> None:
    options = options | {"pool_images": NUM_IMAGES}
    envs, plain = make_vector(REFINE, 2, **options), make_vector(REFINE, 2, **options)
    _, info = envs.reset(seed=1)
    plain.reset(seed=1)
    for step in range(NUM_STEPS):
        actions = random_actions(REFINE, 2, step)
        found, expected = envs.step(actions)[4]["credit"][0], plain.step(actions)[4]["credit"][0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        if step < NUM_STEPS - 1:
            envs.reset(options={"reset_mask": np.array([False, True])})
    assert info["indices"][0] == plain.indices[0]


def test_episodes_that_go_on_keep_their_boxes_and_step_and_others_begin_anew(options: dict[str, Any]) -> None:
    envs = make_vector(REFINE, 2, **options, render_mode="rgb_array")
    _, info = envs.reset(seed=0)
    before, *_ = envs.step(random_actions(REFINE, 2, 0))
    after, told = envs.reset(options={"reset_mask": torch.tensor([False, True])})
    assert after["step"].tolist() == [[1], [0]]
    assert told["indices"][0] == info["indices"][0]
    assert told["indices"][1] not in info["indices"]
    for name, values in before.items():
        assert torch.equal(after[name][0], values[0]), name
    assert len(envs.render()) == 2


@pytest.mark.parametrize("env_id", [name for name in ENVIRONMENTS if name != REFINE])
def test_episodes_of_one_step_may_begin_anew_some_by_some(env_id: str, options: dict[str, Any]) -> None:
    envs, whole = make_vector(env_id, 3, **options), make_vector(env_id, 3, **options)
    _, info = envs.reset(seed=0)
    first = info["indices"].tolist()
    for anew in ([False, True, False], [True, False, True]):
        _, info = envs.reset(options={"reset_mask": np.array(anew)})
        now = info["indices"].tolist()
        assert [old == new for old, new in zip(first, now, strict=True)] == [not begun for begun in anew]
        first = now
    observation, *_ = whole.reset(seed=0, options={"indices": first})
    actions = random_actions(env_id, 3, 0)
    _, rewards, *_ = envs.step(actions)
    assert rewards.isfinite().all()
    assert len(numbers(observation)) > 0
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(actions)
    envs.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step(actions)
    envs.reset(options={"reset_mask": np.array([False, False, True])})
    envs.step(actions)


def test_wrong_masks_are_refused_in_one_sentence_and_the_episode_goes_on(options: dict[str, Any]) -> None:
    envs = make_vector(TUNE, 4, **options, samples_per_image=2)
    with pytest.raises(ValueError, match="the first reset must be of all sub-environments"):
        envs.reset(options={"reset_mask": np.array([True, True, False, False])})
    envs.reset(seed=0)
    for wrong, message in (
        (np.zeros(4, dtype=np.bool_), "reset_mask must hold 4 truth values, one True at least"),
        (np.ones(3, dtype=np.bool_), "reset_mask must hold 4 truth values"),
        (np.ones(4), "reset_mask must hold 4 truth values"),
        ("all", "reset_mask must hold 4 truth values"),
        (np.array([True, False, True, True]), "the same for all 2 samples of an image"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            envs.reset(options={"reset_mask": wrong})
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="images or a reset_mask of some"):
        envs.reset(options={"reset_mask": np.array([True, True, False, False]), "indices": [0, 1]})
    envs.step(random_actions(TUNE, 4, 0))
    at_once = make_vector(TUNE, 2, **options, autoreset_mode=AutoresetMode.SAME_STEP)
    at_once.reset(seed=0)
    with pytest.raises(ValueError, match="a reset_mask of some needs autoreset DISABLED; got SAME_STEP"):
        at_once.reset(options={"reset_mask": np.array([True, False])})
