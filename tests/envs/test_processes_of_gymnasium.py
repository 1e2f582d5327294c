"""Environments in processes of their own, forked or spawned: gymnasium's `AsyncVectorEnv`."""

from pathlib import Path

import pytest
from own_process import run

ASYNC = """
import sys
import gymnasium
import numpy as np
import rl_det_envs

if __name__ == "__main__":
    context, num_envs = sys.argv[1], int(sys.argv[2])
    for name in ("TunePostprocessing", "RescoreDetections"):
        envs = gymnasium.make_vec(
            f"rl_det/{name}-v0", num_envs=num_envs, vectorization_mode="async", vector_kwargs={"context": context}
        )
        envs.reset(seed=0)
        rewards = envs.step(envs.action_space.sample())[1]
        envs.close()
        assert rewards.shape == (num_envs,) and np.isfinite(rewards).all(), rewards
    print("done")
"""


@pytest.mark.parametrize(("context", "num_envs"), [("fork", 2), ("spawn", 1)])  # a spawned process imports all anew
def test_gymnasium_steps_environments_in_other_processes(context: str, num_envs: int, tmp_path: Path) -> None:
    run(ASYNC, tmp_path, context, str(num_envs))
