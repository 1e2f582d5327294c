"""Detections before and after a step, and true boxes -> what the step earns, and each candidate's part in it, by name."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from rl_det.rewards.average_precision import BatchAp, PoolAp, pool_mean_ap
from rl_det.rewards.edits import Edits, Pool, Scene, Step
from rl_det.rewards.image_values import Cost, MatchedSum, best_iou, f1, image_ap_value, lrp
from rl_det.rewards.reward import Reward, Value, Worth
from rl_det.rewards.shaping import LengthFactor, PotentialShaping, SignOfIouChange, StepCost, Sum

Objects = Int64[np.ndarray, " C"]
"""How many true boxes of each class a data set has."""

REWARDS: dict[str, Callable[[Objects], Reward]] = {
    "pool_ap": lambda objects: PoolAp(),
    "image_ap": lambda objects: Worth(image_ap_value),
    "image_ap_delta": lambda objects: Worth(image_ap_value, "by_change"),
    "batch_ap": lambda objects: BatchAp(),
    "matched_sum": lambda objects: Worth(MatchedSum.weighted(objects)),
    "f1": lambda objects: Worth(f1),
    "lrp": lambda objects: Worth(lrp),
    "cost": lambda objects: Worth(Cost()),
}
"""What `gymnasium.make(..., reward=name)` knows; anything else that is a `Reward` can be given as it is."""

__all__ = [
    "REWARDS",
    "BatchAp",
    "Cost",
    "Edits",
    "LengthFactor",
    "MatchedSum",
    "Pool",
    "PoolAp",
    "PotentialShaping",
    "Reward",
    "Scene",
    "SignOfIouChange",
    "Step",
    "StepCost",
    "Sum",
    "Value",
    "Worth",
    "best_iou",
    "check_reward",
    "f1",
    "image_ap_value",
    "lrp",
    "pool_mean_ap",
    "reward_named",
]


def check_reward(name: str) -> None:
    """ValueError for a name that is not known; it lists those that are."""
    if name not in REWARDS:
        raise ValueError(f"reward must be one of {sorted(REWARDS)}; got {name!r}")


def reward_named(name: str | Reward, objects: Objects) -> Reward:
    """The reward of this name, for a data set with so many objects of each class; a reward as it is."""
    if isinstance(name, Reward):
        return name
    check_reward(name)
    return REWARDS[name](objects)
