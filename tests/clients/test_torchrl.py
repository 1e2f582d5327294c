"""TorchRL's GymWrapper rolls out every environment, in single and in vector form."""

from typing import Any

import gymnasium
import pytest
import torch
from contract.environments import ENVIRONMENTS, REFINE, TUNE, make_vector
from gymnasium.vector import AutoresetMode

torchrl_envs = pytest.importorskip("torchrl.envs", reason="TorchRL is not installed")
check_env_specs = pytest.importorskip("torchrl.envs.utils").check_env_specs

NUM_STEPS = 7
pytestmark = pytest.mark.filterwarnings("ignore")  # TorchRL's own


def rolled_out(env: Any) -> Any:
    wrapped = torchrl_envs.GymWrapper(env)
    check_env_specs(wrapped)
    return wrapped.rollout(NUM_STEPS, break_when_any_done=False)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_single_form_rolls_out(env_id: str, options: dict[str, Any]) -> None:
    found = rolled_out(gymnasium.make(env_id, **options))
    ends = [env_id != REFINE or step % 3 == 2 for step in range(NUM_STEPS)]
    assert found.batch_size == (NUM_STEPS,)
    assert found["next", "done"].flatten().tolist() == ends
    assert found["next", "reward"].isfinite().all()


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_the_vector_form_rolls_out_and_begins_anew_where_episodes_end(env_id: str, options: dict[str, Any]) -> None:
    found = rolled_out(make_vector(env_id, 3, **options, samples_per_image=3, credit=False))
    ends = [env_id != REFINE or step % 3 == 2 for step in range(NUM_STEPS)]
    assert found.batch_size == (3, NUM_STEPS)
    for row in found["next", "done"].squeeze(-1):
        assert row.tolist() == ends
    shown = found["observation" if env_id == TUNE else "logits"]
    assert len({tuple(values.flatten().tolist()) for values in shown[0]}) > (1 if env_id == REFINE else 3)
    if env_id != TUNE:
        assert found["mask"].dtype == torch.bool


def test_where_observations_are_one_vector_same_step_keeps_the_last_one(options: dict[str, Any]) -> None:
    """Of a dictionary, TorchRL loses the last observation; so it is told to take DISABLED, the default."""
    envs = make_vector(TUNE, 3, **options, credit=False, autoreset_mode=AutoresetMode.SAME_STEP)
    found = torchrl_envs.GymWrapper(envs).rollout(NUM_STEPS, break_when_any_done=False)
    assert torch.equal(found["next", "observation"], found["observation"])  # an episode of one step shows one image
