"""Find the one post-processing action that is best for all images of a split: the baseline that a learner has to beat."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rl_det.progress import bar

DETECTIONS = (6, 12, 24)
"""The limits on the number of detections in the grid, besides no limit."""
STEPS = (0.075, 0.1, 0.25, 0.06)
"""The first steps of the refinement around the grid's best point, in actions: half a grid step; each next step is half."""


def as_action(envs: Any, threshold: float, nms_iou: float, decay: float, num_detections: int) -> Float[Tensor, "4"]:
    """The action that means these settings; `decay` is 1 / sigma as a share of the strongest."""
    return 2 * torch.tensor([threshold, nms_iou, decay, (num_detections - 1) / (envs.num_candidates - 1)]) - 1


def judged(envs: Any, choose: Callable[[Tensor], Tensor]) -> Float64[np.ndarray, " D"]:
    """Each image's reward, in the data's order; `choose` maps all images' descriptions to actions."""
    seen, _ = envs.reset(options={"indices": list(range(envs.num_envs))})
    rewards: Float64[np.ndarray, " D"] = envs.step(choose(seen))[1].double().numpy(force=True)
    return rewards


def best_on_grid(envs: Any, *, refinements: int, stride: int = 1) -> Float[Tensor, "4"]:
    """The action with the highest mean reward over all images: the best of each `stride`-th grid point, then refined."""
    thresholds, ious, decays = np.linspace(0.05, 0.95, 13), np.linspace(0.1, 0.9, 9), (0.0, 0.125, 0.25, 0.5, 0.75)
    numbers = [number for number in DETECTIONS if number < envs.num_candidates] + [envs.num_candidates]
    grid = [as_action(envs, *settings) for settings in itertools.product(thresholds, ious, decays, numbers)][::stride]
    ways = torch.tensor(list(itertools.product((0.0, -1.0, 1.0), repeat=len(STEPS))))
    with bar("grid", len(grid) + refinements * len(ways)) as shown:

        def worth(action: Tensor) -> float:
            shown.advance()
            return float(judged(envs, lambda seen: action.expand(len(seen), -1)).mean())

        found = max(grid, key=worth)
        for number in range(refinements):
            around = (found + torch.tensor(STEPS) / 2**number * ways).clamp(-1, 1)
            found = max(list(around), key=worth)
    return found
