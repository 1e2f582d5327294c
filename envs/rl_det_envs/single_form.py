"""The single form of all environments: the vector form for one image, in numpy.

Each part of its observation is a flat vector, as SB3 needs it.
"""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from rl_det.errors import UserError
from rl_det.settings import check_argument
from rl_det_envs.detector_environment import METADATA, PLURAL, DetectorVectorEnv


class DetectorEnv(gymnasium.Env[Any, Any]):
    """The single form: one image, numpy in and out. It takes the vector form's arguments, without its autoreset."""

    metadata: dict[str, Any] = METADATA
    vector_class: ClassVar[type[DetectorVectorEnv]]

    def __init__(self, **arguments: Any) -> None:
        if "autoreset_mode" in arguments:
            got = arguments["autoreset_mode"]
            raise UserError(f"autoreset_mode is the vector form's, of gymnasium.make_vec; got {got!r}")
        self.batched = self.vector_class(1, **arguments)
        self.render_mode = self.batched.render_mode
        self.observation_space = flat_space(self.batched.single_observation_space)
        self.action_space = self.batched.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Show the next image, or the one of `options={"index": ...}` or `{"image_id": ...}`; `info` has both numbers."""
        asked = options or {}
        if asked.keys() not in (set(), {"index"}, {"image_id"}):
            raise UserError(f"options must be {{'index': ...}} or {{'image_id': ...}}; got {sorted(asked)}")
        for name, value in asked.items():
            check_argument(name, value, int)
        chosen = {PLURAL[name]: [value] for name, value in asked.items()}
        self.batched.chosen(chosen)  # refused before anything changes
        super().reset(seed=seed)
        if seed is not None or self.batched._np_random is None:
            self.batched.np_random = self.np_random
            self.batched._queue = []
        observation, info = self.batched.reset(options=chosen)
        return flat(observation), {name: int(info[plural][0]) for name, plural in PLURAL.items()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply the action; `info` is the vector form's, for the one image."""
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise UserError(f"an action must have shape {self.action_space.shape}; got {action.shape}")
        observation, reward, terminated, truncated, info = self.batched.step(action[None])
        told = {name: values[0].numpy(force=True) for name, values in info.items()}
        return flat(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), told

    def render(self) -> Any:
        """The picture, uint8 [H, W, 3]: true boxes; kept, dropped and changed detections; the reward."""
        pictures = self.batched.render()
        return None if pictures is None else pictures[0]


def flat_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The same space with each Box flattened to a vector; truth values become 0 and 1, as SB3 needs them."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: flat_space(part) for name, part in space.spaces.items()})
    if isinstance(space, spaces.Box) and space.dtype == np.bool_:
        return spaces.MultiBinary(int(np.prod(space.shape)))
    return spaces.flatten_space(space) if isinstance(space, spaces.Box) else space


def flat(observation: Any) -> Any:
    """The first image's observation as numpy copies, with each part flattened to a vector."""
    if isinstance(observation, dict):
        return {name: flat(values) for name, values in observation.items()}
    values: np.ndarray = np.array(observation[0].numpy(force=True)).reshape(-1)
    return values.astype(np.int8) if values.dtype == np.bool_ else values
