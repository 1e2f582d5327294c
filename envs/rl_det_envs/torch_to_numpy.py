"""The vector form in numpy, for Gymnasium's vector wrappers and for agents that are written for numpy."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from torch import Tensor

NumpyStep = tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class TorchToNumpy(VectorWrapper[Any, Any, Any]):
    """Observations, rewards, ends and `info` as numpy arrays of their own, whatever device the environment is on.

    It does what `gymnasium.wrappers.vector.ArrayConversion(envs, env_xp=torch, target_xp=numpy)` does, without that
    wrapper's further dependency, and copies, so what is observed may be written to. It goes around the environment
    first, all other wrappers around it: `RecordEpisodeStatistics(TorchToNumpy(envs))`.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset with the same options, in numpy or torch."""
        observation, info = self.env.reset(seed=seed, options=options)
        return in_numpy(observation), in_numpy(info)

    def step(self, actions: Any) -> NumpyStep:
        """Apply the actions, numpy or torch."""
        step: NumpyStep = in_numpy(self.env.step(actions))
        return step


def in_numpy(values: Any) -> Any:
    """Tensors as numpy copies, in dictionaries and tuples too."""
    if isinstance(values, dict):
        return {name: in_numpy(part) for name, part in values.items()}
    if isinstance(values, tuple):
        return tuple(in_numpy(part) for part in values)
    return np.array(values.numpy(force=True)) if isinstance(values, Tensor) else values
