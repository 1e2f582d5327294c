"""A split's environment of post-processing -> the one action that is best for all its images: what a learner has to beat."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from task import Bar
from torch import Tensor

DETECTIONS = (6, 12, 24)
"""Limits on the grid, besides none."""
STEPS = (0.075, 0.1, 0.25, 0.06)
"""How far from the grid's best point, in actions, its refinement looks first: half a step of the grid; then half as far."""
REFINEMENTS = {"smoke": 1, "short": 4, "full": 5}


def as_action(envs: Any, threshold: float, nms_iou: float, decay: float, num_detections: int) -> Float[Tensor, "4"]:
    """The action that stands for these settings; `decay` is 1 / sigma as a share of the strongest."""
    return 2 * torch.tensor([threshold, nms_iou, decay, (num_detections - 1) / (envs.num_candidates - 1)]) - 1


def judged(envs: Any, choose: Callable[[Tensor], Tensor]) -> Float64[np.ndarray, " D"]:
    """Each image's reward, in the data's order."""
    seen, _ = envs.reset(options={"indices": list(range(envs.num_envs))})
    rewards: Float64[np.ndarray, " D"] = envs.step(choose(seen))[1].double().numpy(force=True)
    return rewards


def best_on_grid(val: Any, budget: str) -> Float[Tensor, "4"]:
    """The one action for all images with the highest mean reward on validation."""
    thresholds, ious, decays = np.linspace(0.05, 0.95, 13), np.linspace(0.1, 0.9, 9), (0.0, 0.125, 0.25, 0.5, 0.75)
    numbers = [number for number in DETECTIONS if number < val.num_candidates] + [val.num_candidates]
    grid = [as_action(val, *settings) for settings in itertools.product(thresholds, ious, decays, numbers)]
    grid, rounds = grid[:: 50 if budget == "smoke" else 1], REFINEMENTS[budget]
    ways = torch.tensor(list(itertools.product((0.0, -1.0, 1.0), repeat=len(STEPS))))
    with Bar("grid", len(grid) + rounds * len(ways)) as bar:

        def best(actions: list[Tensor]) -> Tensor:
            bar.advance(len(actions))
            return max(actions, key=lambda action: judged(val, lambda seen: action.expand(len(seen), -1)).mean())

        found = best(grid)
        for number in range(rounds):
            found = best(list((found + torch.tensor(STEPS) / 2**number * ways).clamp(-1, 1)))
    return found
