"""Stable-Baselines3's agents on the adapter: by default they explore so little that the detector stays as good as it is."""

from typing import Any

import numpy as np
import pytest
import torch
from contract.environments import ADJUST, REFINE, RESCORE, SELECT, TUNE, make_vector

from rl_det.data.digit_scenes import DigitScenes
from rl_det.detectors import Detector
from rl_det.detectors.encodings import encode_dataset

stable_baselines3 = pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")

from rl_det_envs.sb3 import DetectorVecEnv  # noqa: E402  (it imports SB3)
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402
from stable_baselines3.common.vec_env import VecMonitor  # noqa: E402

AGENTS: dict[str, dict[str, Any]] = {
    "PPO": {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
    "A2C": {},
    "SAC": {"learning_starts": 12, "batch_size": 32, "buffer_size": 200},
}
NUM_STEPS, NUM_SCENES = 160, 16
TOLERANCE = 0.004
"""What a mean reward may fall below doing nothing: 0.4 points of mAP. Sixteen logits of noise cost 1.2, half a logit 0.06."""


@pytest.fixture(scope="module")
def harder(detector: Detector) -> dict[str, Any]:
    """Scenes and candidates enough that noise costs something."""
    data = encode_dataset(detector, DigitScenes("val", num_scenes=NUM_SCENES))
    return {"detector": detector, "dataset": data, "num_candidates": 64, "pool_images": NUM_SCENES}


def trained(agent: str, env_id: str, options: dict[str, Any], **scale: float) -> tuple[float, float]:
    """The mean reward while it learns, and that of its mean actions after it has learnt; doing nothing earns 0."""
    num_images = len(options["dataset"])
    made = [make_vector(env_id, num_images, **options, credit=False) for _ in range(2)]
    envs, test = (VecMonitor(DetectorVecEnv(own, **scale)) for own in made)
    model = getattr(stable_baselines3, agent)(
        "MlpPolicy" if env_id == TUNE else "MultiInputPolicy", envs, seed=0, device="cpu",
        policy_kwargs={"net_arch": [16]}, **AGENTS[agent],
    )  # fmt: skip
    model.learn(NUM_STEPS)
    after, _ = evaluate_policy(model, test, num_images)
    return float(np.mean([told["r"] for told in model.ep_info_buffer])), float(after)


@pytest.mark.parametrize("agent", AGENTS)
def test_by_default_no_agent_falls_below_doing_nothing(agent: str, harder: dict[str, Any]) -> None:
    exploring, after = trained(agent, RESCORE, harder)
    assert exploring > -TOLERANCE
    assert after > -TOLERANCE


@pytest.mark.parametrize("agent", AGENTS)
def test_with_sixteen_logits_it_does_while_it_learns(agent: str, harder: dict[str, Any]) -> None:
    exploring, _ = trained(agent, RESCORE, harder, action_scale=16.0)
    assert exploring < -TOLERANCE


@pytest.mark.parametrize("agent", AGENTS)
def test_post_processing_is_learnt_from_a_vector(agent: str, options: dict[str, Any]) -> None:
    exploring, after = trained(agent, TUNE, options)
    assert 0 <= exploring <= 1
    assert 0 <= after <= 1


def test_an_action_of_one_is_half_a_logit_and_a_fifth_of_a_move(options: dict[str, Any]) -> None:
    for env_id, means in (
        (RESCORE, 0.5),
        (ADJUST, (0.5, 0.2, 0.2, 0.2, 0.2)),
        (REFINE, 0.2),
        (TUNE, 1.0),
        (SELECT, 1.0),
    ):
        ours, plain = (make_vector(env_id, 2, **options, credit=False) for _ in range(2))
        adapter = DetectorVecEnv(ours)
        adapter.seed(0)
        adapter.reset()
        plain.reset(seed=0)
        actions = adapter.action_space.sample()[None].repeat(2, 0)
        expected = plain.step(torch.from_numpy(actions * np.float32(means) / np.float32(plain.action_scale)))[1]
        np.testing.assert_array_equal(adapter.step(actions)[1], expected.numpy())


def test_scales_that_cannot_be_are_refused_in_one_sentence(options: dict[str, Any]) -> None:
    rescore, tune = (make_vector(env_id, 2, **options) for env_id in (RESCORE, TUNE))
    for envs, scale, message in (
        (rescore, 0.0, "must be positive and at most the environment's 16; got 0.0; 0.5 is usual"),
        (rescore, 17.0, "at most the environment's 16; got 17.0"),
        (rescore, float("nan"), "must be positive"),
        (tune, 0.5, "action_scale has no meaning here"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            DetectorVecEnv(envs, action_scale=scale)
        assert "\n" not in str(refused.value)
    envs = DetectorVecEnv(rescore)
    envs.reset()
    with pytest.raises(ValueError, match=r"lie in \[-1, 1\]"):
        envs.step(np.full(envs.envs.action_space.shape, 1.5, dtype=np.float32))  # type: ignore[arg-type]
