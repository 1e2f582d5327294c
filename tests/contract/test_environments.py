"""What every environment of candidates promises, asked of each id in both of its forms."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import rl_det_envs  # noqa: F401  (registers the ids)
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rl_det.boxes import moved
from rl_det.data.digit_scenes import CLASSES, DigitScenes
from rl_det.detectors import Detector, build_detector
from rl_det.detectors.cache import EncodedDataset, encode_dataset
from rl_det.detectors.tiny import SHIPPED_WEIGHTS
from rl_det.metrics.candidate_pool import CandidatePool
from rl_det.metrics.padding import candidate_relations
from rl_det.types import Target

ADJUST = "rl_det/AdjustDetections-v0"
IDS = ("rl_det/RescoreDetections-v0", "rl_det/SelectDetections-v0", ADJUST)
NUM_CANDIDATES = 24
NUM_IMAGES = 6

pytestmark = pytest.mark.parametrize("env_id", IDS)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build_detector("tiny", num_classes=len(CLASSES), weights=SHIPPED_WEIGHTS)


@pytest.fixture(scope="module")
def data(detector: Detector) -> EncodedDataset:
    """Six scenes; the third's labels are taken away."""
    encoded = encode_dataset(detector, DigitScenes("val", num_scenes=NUM_IMAGES))
    encoded.targets[2] = no_objects()
    return encoded


@pytest.fixture
def options(detector: Detector, data: EncodedDataset) -> dict[str, Any]:
    return {"detector": detector, "dataset": data, "num_candidates": NUM_CANDIDATES, "pool_images": 4}


def no_objects() -> Target:
    return Target(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        area=torch.zeros(0),
        iscrowd=torch.zeros(0, dtype=torch.bool),
        image_id=2,
    )


def make_native(env_id: str, num_envs: int, **options: Any) -> Any:
    return gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode="vector_entry_point", **options).unwrapped


def random_actions(env_id: str, num_envs: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_envs, NUM_CANDIDATES, *([5] if env_id == ADJUST else []), generator=generator)
    return (noise > -0.5).float() if "Select" in env_id else noise


def scores_after(env_id: str, logits: np.ndarray, actions: np.ndarray) -> np.ndarray:
    if env_id == ADJUST:
        return logits + actions[..., 0]
    return np.where(actions > 0.5, logits, -np.inf) if "Select" in env_id else logits + actions


def boxes_after(env_id: str, boxes: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Digit scenes are 128 pixels wide and high."""
    return moved(boxes, actions[..., 1:]).clamp(0, 128) if env_id == ADJUST else boxes


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")  # a logit's natural range is not [-1, 1]
def test_gymnasium_finds_nothing_to_complain_about(env_id: str, options: dict[str, Any]) -> None:
    check_env(gymnasium.make(env_id, **options).unwrapped)


def test_it_can_be_made_without_any_argument(env_id: str) -> None:
    observation, _ = gymnasium.make(env_id, num_candidates=8).reset(seed=0)
    assert observation["boxes"].shape == (8, 4)


def test_the_native_form_with_one_environment_is_the_single_form(env_id: str, options: dict[str, Any]) -> None:
    single, native = gymnasium.make(env_id, **options), make_native(env_id, 1, **options)
    for episode in range(NUM_IMAGES + 2):
        seed = 5 if episode == 0 else None
        observation, info = single.reset(seed=seed)
        observations, infos = native.reset(seed=seed)
        assert info["image_id"] == infos["image_ids"][0]
        for name, values in observations.items():
            np.testing.assert_array_equal(observation[name], values[0].numpy())
        actions = random_actions(env_id, 1, episode)
        action = actions[0].numpy().astype(single.action_space.dtype)
        _, reward, terminated, truncated, outcome = single.step(action)
        _, rewards, ended, cut, outcomes = native.step(actions)
        assert reward == float(rewards[0])
        np.testing.assert_array_equal(outcome["credit"], outcomes["credit"][0].numpy())
        assert (terminated, truncated) == (bool(ended[0]), bool(cut[0])) == (True, False)


def test_the_native_form_declares_that_it_waits_for_reset(env_id: str, options: dict[str, Any]) -> None:
    envs = make_native(env_id, 2, **options)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    envs.reset(seed=0)
    envs.step(random_actions(env_id, 2, 0))
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        envs.step(random_actions(env_id, 2, 0))


def test_next_step_resets_in_the_step_after_the_end_and_same_step_in_the_step_itself(
    env_id: str, options: dict[str, Any]
) -> None:
    waiting = make_native(env_id, 2, **options)
    later = make_native(env_id, 2, **options, autoreset_mode=AutoresetMode.NEXT_STEP)
    at_once = make_native(env_id, 2, **options, autoreset_mode=AutoresetMode.SAME_STEP)
    assert later.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert at_once.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    seen, info = waiting.reset(seed=3)
    for envs in (later, at_once):
        assert envs.reset(seed=3)[1]["image_ids"] == info["image_ids"]
    for episode in range(3):
        actions = random_actions(env_id, 2, episode)
        _, rewards, ended, _, outcome = waiting.step(actions)
        following, info = waiting.reset()
        for step in (later.step(actions), at_once.step(actions)):
            assert torch.equal(step[1], rewards)
            assert torch.equal(step[2], ended)
        same_obs, final = step[0], step[4]
        assert torch.equal(final["final_info"]["credit"], outcome["credit"])
        assert torch.equal(final["final_obs"]["logits"], seen["logits"])
        assert final["image_ids"] == info["image_ids"]
        observation, nothing, ended, cut, begun = later.step(actions)
        assert begun["image_ids"] == info["image_ids"]
        assert not torch.stack((nothing.bool(), ended, cut)).any()
        for other in (observation, same_obs):
            assert torch.equal(other["logits"], following["logits"])
        seen = following


def test_no_mode_steps_before_the_first_reset(env_id: str, options: dict[str, Any]) -> None:
    for mode in AutoresetMode:
        with pytest.raises(gymnasium.error.ResetNeeded):
            make_native(env_id, 2, **options, autoreset_mode=mode).step(random_actions(env_id, 2, 0))


def test_an_image_can_be_asked_for_and_an_unknown_one_is_refused(env_id: str, options: dict[str, Any]) -> None:
    single, native = gymnasium.make(env_id, **options), make_native(env_id, 2, **options)
    expected = native.reset(seed=0, options={"image_ids": [4, 1]})
    assert expected[1]["image_ids"] == [4, 1]
    observation, info = single.reset(seed=0, options={"image_id": 4})
    assert info["image_id"] == 4
    np.testing.assert_array_equal(observation["logits"], expected[0]["logits"][0].numpy())
    with pytest.raises(ValueError, match=r"image_ids must be positions in the data set, 0\.\.5; got 17"):
        single.reset(options={"image_id": 17})
    with pytest.raises(ValueError, match=r"image_ids must be 2 different images; got \[1, 1\]"):
        native.reset(options={"image_ids": [1, 1]})
    with pytest.raises(ValueError, match=r"options must be {'image_ids': \[\.\.\.\]}; got \['seed'\]"):
        native.reset(options={"seed": 3})
    native.step(random_actions(env_id, 2, 0))  # the episode goes on


def test_observations_lie_in_their_space(env_id: str, options: dict[str, Any]) -> None:
    envs = make_native(env_id, 3, **options)
    observations, _ = envs.reset(seed=0)
    arrays = {name: values.numpy() for name, values in observations.items()}
    arrays["mask"] = arrays["mask"].astype(np.int8)
    assert envs.observation_space.contains(arrays)


def test_equal_seeds_give_equal_episodes(env_id: str, options: dict[str, Any]) -> None:
    first, second = make_native(env_id, 3, **options), make_native(env_id, 3, **options)
    for episode in range(4):
        seed = 11 if episode == 0 else None
        assert first.reset(seed=seed)[1]["image_ids"] == second.reset(seed=seed)[1]["image_ids"]
        actions = random_actions(env_id, 3, episode)
        assert torch.equal(first.step(actions)[1], second.step(actions)[1])


def test_every_image_comes_once_before_any_comes_again(env_id: str, options: dict[str, Any]) -> None:
    envs = make_native(env_id, 2, **options | {"pool_images": 2})
    shown = []
    for episode in range(NUM_IMAGES // 2):
        shown += envs.reset(seed=0 if episode == 0 else None)[1]["image_ids"]
    assert sorted(shown) == list(range(NUM_IMAGES))


@pytest.mark.parametrize("nms_iou", [None, 0.3])
def test_reward_and_credit_are_what_a_whole_evaluation_says(
    env_id: str, options: dict[str, Any], detector: Detector, data: EncodedDataset, nms_iou: float | None
) -> None:
    envs = make_native(env_id, 4, **options, nms_iou=nms_iou)
    nms_iou = nms_iou or detector.nms_iou
    _, info = envs.reset(seed=1)
    ids = info["image_ids"]
    candidates = detector.propose(data.batch(torch.tensor(ids), "cpu"), NUM_CANDIDATES)
    targets = [data.targets[image] for image in ids]
    related = candidate_relations(candidates, targets, num_classes=detector.num_classes)
    logits = candidates.logits.numpy()  # float32, as the environment adds its actions in float32
    before = CandidatePool(related, logits.astype(float), nms_iou=nms_iou).mean_ap
    actions = random_actions(env_id, 4, 2)
    _, rewards, _, _, outcome = envs.step(actions)
    nothing = torch.full_like(actions[0], 1.0 if "Select" in env_id else 0.0)
    factors = [slice(0, 1), slice(1, 5)] if env_id == ADJUST else [...]

    def mean_ap(row: int, action: torch.Tensor) -> float:
        scores, boxes = logits.astype(float), candidates.boxes.clone()
        scores[row] = scores_after(env_id, logits[row], action.numpy())
        acts = (action[..., 1:] != 0).any(-1, keepdim=True) if env_id == ADJUST else torch.zeros(NUM_CANDIDATES, 1) > 0
        boxes[row] = torch.where(acts, boxes_after(env_id, boxes[row], action), boxes[row])
        edited = replace(candidates, boxes=boxes)
        related = candidate_relations(edited, targets, num_classes=detector.num_classes)
        return CandidatePool(related, scores, nms_iou=nms_iou).mean_ap

    for row in range(4):
        assert float(rewards[row]) == pytest.approx(mean_ap(row, actions[row]) - before, abs=1e-7)
        for candidate in range(0, NUM_CANDIDATES, 5):
            for number, factor in enumerate(factors):
                alone = nothing.clone()
                alone[candidate, factor] = actions[row, candidate, factor]
                credit = outcome["credit"][row, candidate]
                credit = credit[number] if env_id == ADJUST else credit
                assert float(credit) == pytest.approx(mean_ap(row, alone) - before, abs=1e-7)
    assert rewards.abs().max() > 0


def test_doing_what_the_baseline_does_is_worth_nothing(env_id: str, options: dict[str, Any]) -> None:
    envs = make_native(env_id, 4, **options, samples_per_image=2)
    envs.reset(seed=0)
    actions = random_actions(env_id, 2, 0).repeat_interleave(2, 0)
    envs.set_baseline(actions)
    assert not envs.step(actions)[1].any()


def test_samples_of_one_image_share_its_observation(env_id: str, options: dict[str, Any]) -> None:
    envs = make_native(env_id, 6, **options, samples_per_image=3)
    observation, info = envs.reset(seed=0)
    assert len(info["image_ids"]) == len(info["encoded"]) == 2
    assert torch.equal(observation["logits"][0], observation["logits"][2])
    assert not torch.equal(observation["logits"][2], observation["logits"][3])


@pytest.mark.parametrize("reward", ["pool_ap", "image_ap"])
def test_images_without_objects_or_without_candidates_are_episodes_like_others(
    env_id: str, detector: Detector, data: EncodedDataset, reward: str
) -> None:
    encoded = data.encoded[slice(0, 3)]
    encoded.mask[1] = False
    bare = EncodedDataset(encoded, data.targets[:3])
    envs = make_native(
        env_id, 3, detector=detector, dataset=bare, num_candidates=NUM_CANDIDATES, reward=reward, pool_images=3
    )
    _, info = envs.reset(seed=0)
    _, rewards, _, _, outcome = envs.step(random_actions(env_id, 3, 0))
    assert rewards.isfinite().all()
    assert outcome["credit"].isfinite().all()
    assert not outcome["credit"][info["image_ids"].index(1)].any()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (torch.zeros(2, 3), "shape"),
        (None, r"finite.*\[0, 0"),
    ],
)
def test_a_bad_action_is_refused_and_the_episode_goes_on(
    env_id: str, options: dict[str, Any], actions: torch.Tensor | None, message: str
) -> None:
    if actions is None:
        actions = torch.full_like(random_actions(env_id, 2, 0), float("nan"))
    envs = make_native(env_id, 2, **options)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        envs.step(actions)
    envs.step(random_actions(env_id, 2, 0))


def test_impossible_arguments_are_refused_by_name(env_id: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"image_ap.*pool_ap"):
        make_native(env_id, 2, **options, reward="map")
    with pytest.raises(ValueError, match="num_envs"):
        make_native(env_id, 0, **options)
    with pytest.raises(ValueError, match="samples_per_image"):
        make_native(env_id, 3, **options, samples_per_image=2)
