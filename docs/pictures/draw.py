"""Draw one episode of each environment for docs/environments.md: python docs/pictures/draw.py

The shipped detector, a digit scene, and an action by rule: no agent is trained for the pictures.
"""

from pathlib import Path

import gymnasium
import numpy as np
import rl_det_envs  # noqa: F401  (registers the environments)
from PIL import Image

from rl_det.data.digit_scenes import DigitScenes

HERE = Path(__file__).parent
SCENE = 3
COLOURS = 64
"""Of the picture's palette, so that a file stays small."""


def action_of(name: str, env: gymnasium.Env, seen: dict[str, np.ndarray]) -> np.ndarray:  # type: ignore[type-arg]
    """Push down or drop what is scored below a half, nudge boxes at random, take the middle of all settings."""
    rng = np.random.default_rng(0)
    if name == "TunePostprocessing":
        return np.zeros(env.action_space.shape or (), np.float32)
    doubted = seen["logits"] < 0
    if name == "SelectDetections":
        return (~doubted).astype(np.int8)
    shift = np.where(doubted, -0.06, 0.0).astype(np.float32)
    if name == "RescoreDetections":
        return shift
    moves = (0.02 * rng.standard_normal((len(shift), 4))).astype(np.float32)
    action = moves if name == "RefineBoxes" else np.concatenate([shift[:, None], moves], 1)
    return action.reshape(env.action_space.shape or ())


def picture(name: str) -> Image.Image:
    """The last picture of an episode."""
    data = DigitScenes("val", num_scenes=8)
    env = gymnasium.make(f"rl_det/{name}-v0", dataset=data, pool_images=8, num_candidates=192, render_mode="rgb_array")
    seen, _ = env.reset(seed=0, options={"index": SCENE})
    ended = False
    while not ended:
        seen, _, terminated, truncated, _ = env.step(action_of(name, env, seen))
        ended = terminated or truncated
    return Image.fromarray(np.asarray(env.render())).quantize(COLOURS)


if __name__ == "__main__":
    for name in ("RescoreDetections", "SelectDetections", "AdjustDetections", "RefineBoxes", "TunePostprocessing"):
        picture(name).save(HERE / f"{name}.png", optimize=True)
