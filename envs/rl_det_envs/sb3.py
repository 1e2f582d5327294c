"""Adapt a vector environment of rl_det to Stable-Baselines3's `VecEnv`: numpy in, numpy out.

    envs = gymnasium.make_vec("rl_det/TunePostprocessing-v0", num_envs=64, vectorization_mode="vector_entry_point")
    model = PPO("MlpPolicy", VecMonitor(DetectorVecEnv(envs)))

All sub-environments share one process, one pass of the head and one call of the reward. With one sub-environment and
`action_scale=envs.action_scale`, every step equals that of SB3's `DummyVecEnv` of `gymnasium.make(...)`. This module
imports SB3, so `rl_det_envs` does not import it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from rl_det.errors import UserError
from rl_det_envs.detector_environment import PLURAL, DetectorVectorEnv
from rl_det_envs.single_form import flat_space

Indices = int | Iterable[int] | None
OF_ONE = {"observation_space": "single_observation_space", "action_space": "single_action_space"}
"""SB3's names of a sub-environment's attributes, and their names in the vector form."""


class DetectorVecEnv(VecEnv):
    """A `VecEnv` around a vector environment with autoreset DISABLED; it resets when the episodes end, all together.

    Each part of an observation is a flat vector, as in `gymnasium.make(...)`. `infos` hold each sub-environment's row
    of the vector form's `info`, and "terminal_observation" at the end of an episode. `reset_infos` hold "index" and
    "image_id". SB3 does not use credit, so make the environment with `credit=False`: its steps are cheaper. Of SB3's
    seeds, only the first is used, because there is one generator.

    `action_scale` is what an action of 1 means, in the unit of the environment's actions. SB3's Gaussian begins with a
    standard deviation of 1, so this is how widely SB3 explores, and how far an action reaches. Left out, it is the
    environment's `usual_exploration`: half a logit, a fifth of a box's move; post-processing settings and choices have
    no scale, and are passed on as they are. `action_scale=envs.action_scale` passes all actions on as they are.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any], *, action_scale: float | None = None) -> None:
        if not isinstance(envs, DetectorVectorEnv) or envs.autoreset_mode is not AutoresetMode.DISABLED:
            raise UserError(
                "envs must be a vector environment of rl_det, with autoreset DISABLED, its default; got "
                f"{envs}; make it by gymnasium.make_vec(..., vectorization_mode='vector_entry_point')"
            )
        self.envs = envs
        self.share = share_of(envs, action_scale)
        super().__init__(envs.num_envs, flat_space(envs.single_observation_space), envs.single_action_space)

    def reset(self) -> Any:
        """Show the next images, or those that `set_options` names: {"index": ...} or {"image_id": ...} for each."""
        seed, options = self._seeds[0], self._options
        self._reset_seeds()
        self._reset_options()
        return self._begun(*self.envs.reset(seed=seed, options=self._chosen(options)))

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions until `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Apply the actions; if the episodes end, show the next images."""
        actions = self.envs.checked(self._actions)
        if (self.share != 1).any():
            actions = actions * torch.from_numpy(self.share).to(actions)
        seen, rewards, terminated, truncated, told = self.envs.step(actions)
        observation, ended = flat_rows(seen), terminated | truncated
        parts = {name: values.numpy(force=True) for name, values in told.items()}
        infos: list[dict[str, Any]] = [
            {**{name: values[row] for name, values in parts.items()}, "TimeLimit.truncated": cut}
            for row, cut in enumerate((truncated & ~terminated).tolist())
        ]
        if ended.all():
            for row, info in enumerate(infos):
                info["terminal_observation"] = row_of(observation, row)
            observation = self._begun(*self.envs.reset())
        return observation, rewards.numpy(force=True), ended.numpy(force=True), infos

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Each sub-environment's picture, [H, W, 3]; None without render_mode "rgb_array"."""
        pictures = self.envs.render()
        return [None] * self.num_envs if pictures is None else list(pictures)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The vector form's attribute, repeated for each sub-environment in `indices`."""
        value = getattr(self.envs, OF_ONE.get(attr_name, attr_name))
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set the vector form's attribute, which all sub-environments share."""
        self._refuse_some(indices)
        setattr(self.envs, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call the vector form's method once, and return its result for each sub-environment."""
        self._refuse_some(indices)
        return [getattr(self.envs, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """False for each sub-environment: wrappers such as `VecMonitor` wrap this object instead."""
        return [False for _ in self._get_indices(indices)]

    def _begun(self, seen: Any, told: dict[str, Any]) -> Any:
        """The first observation of new episodes; also sets `reset_infos`."""
        each = zip(*(told[plural].tolist() for plural in PLURAL.values()), strict=True)
        self.reset_infos = [dict(zip(PLURAL, image, strict=True)) for image in each]
        return flat_rows(seen)

    def _chosen(self, options: list[dict[str, Any]]) -> dict[str, Any] | None:
        """SB3's options (one dictionary for each sub-environment) in the vector form's format."""
        if not any(options):
            return None
        named = set(options[0])
        if wrong := [option for option in options if set(option) != named or named not in ({"index"}, {"image_id"})]:
            raise UserError(
                "options must be {'index': ...} for each sub-environment, or {'image_id': ...} for each; "
                f"got {options[0]} and {wrong[0]}"
            )
        (name,) = named
        return {PLURAL[name]: [option[name] for option in options[:: self.envs.samples_per_image]]}

    def _refuse_some(self, indices: Indices) -> None:
        """Raise UserError unless `indices` names all sub-environments."""
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise UserError(
                f"indices must be None, for all sub-environments: they are one vector environment; got {indices}"
            )


def share_of(envs: DetectorVectorEnv, action_scale: float | None) -> np.ndarray:
    """By what SB3's actions are multiplied: one factor, or one for each number of a candidate's action."""
    if action_scale is None:
        return np.array([own / envs.action_scale for own in envs.usual_exploration or (envs.action_scale,)], np.float32)
    if not envs.usual_exploration:
        raise UserError(f"action_scale has no meaning here, where actions have no scale; got {action_scale}")
    if not 0 < action_scale <= envs.action_scale:
        raise UserError(
            f"action_scale must be positive and at most the environment's {envs.action_scale:g}; got {action_scale}; "
            f"{envs.usual_exploration[0]:g} is usual"
        )
    return np.array([action_scale / envs.action_scale], np.float32)


def flat_rows(observation: Any) -> Any:
    """All images' observations as numpy copies, with each part of each image flattened to a vector."""
    if isinstance(observation, dict):
        return {name: flat_rows(values) for name, values in observation.items()}
    values: np.ndarray = np.array(observation.numpy(force=True)).reshape(len(observation), -1)
    return values.astype(np.int8) if values.dtype == np.bool_ else values


def row_of(observation: Any, row: int) -> Any:
    """One image's observation, selected from the batch."""
    if isinstance(observation, dict):
        return {name: values[row] for name, values in observation.items()}
    return observation[row]
