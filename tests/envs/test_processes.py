"""Environments in processes of their own, forked or spawned: gymnasium's `AsyncVectorEnv` and SB3's `SubprocVecEnv`.

Each in a process that is ended if it hangs, as threads that a fork does not copy are waited for without end.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(program: str, folder: Path, *arguments: str) -> None:
    """In a session of its own, which ends with all its processes."""
    script = folder / "program.py"
    script.write_text(program)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, str(script), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            told, failed = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("it hangs")
    assert process.returncode == 0, failed
    assert told.split()[-1] == "done"


@pytest.mark.parametrize(("context", "num_envs"), [("fork", 2), ("spawn", 1)])  # a spawned process imports all anew
def test_gymnasium_steps_environments_in_other_processes(context: str, num_envs: int, tmp_path: Path) -> None:
    run(ASYNC, tmp_path, context, str(num_envs))


def test_sb3_steps_environments_that_are_forked_after_the_parent_has_stepped_its_own(tmp_path: Path) -> None:
    run(SUBPROC, tmp_path)
