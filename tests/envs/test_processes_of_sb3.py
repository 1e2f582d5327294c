"""Environments in forked processes of Stable-Baselines3: `SubprocVecEnv`."""

from pathlib import Path

from own_process import run

SUBPROC = """
import gymnasium
import numpy as np
import rl_det_envs
from stable_baselines3.common.vec_env import SubprocVecEnv

if __name__ == "__main__":
    for name in ("TunePostprocessing", "RescoreDetections"):
        own = gymnasium.make(f"rl_det/{name}-v0")
        own.reset(seed=0)
        action = own.action_space.sample()
        reward = own.step(action)[1]  # from now on, the process has threads
        envs = SubprocVecEnv([lambda: gymnasium.make(f"rl_det/{name}-v0")] * 2, start_method="fork")
        envs.seed(0)
        envs.reset()
        rewards = envs.step(np.stack([action, action]))[1]
        envs.close()
        assert np.float32(rewards[0]) == np.float32(reward), (rewards, reward)
    print("done")
"""


def test_sb3_steps_environments_that_are_forked_after_the_parent_has_stepped_its_own(tmp_path: Path) -> None:
    run(SUBPROC, tmp_path)
