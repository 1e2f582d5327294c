"""Rewards by name: the reward of a step and each candidate's credit, from the detections before and after it."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from rl_det.errors import UserError
from rl_det.rewards.average_precision import AP50, AP_SMALL, BatchAp, PoolAp, pool_mean_ap
from rl_det.rewards.edits import Edits, Pool, Scene, Step
from rl_det.rewards.function import DetectionsFunction, FunctionValue
from rl_det.rewards.image_values import Cost, MatchedSum, best_iou, count_error, f1, image_ap_value, lrp
from rl_det.rewards.reward import Reward, Value, Worth, check_shape
from rl_det.rewards.shaping import LengthFactor, PotentialShaping, SignOfIouChange, StepCost, Sum
from rl_det.rewards.tallied import OverThePool, Tallied, of_displayed, of_ranked
from rl_det.rewards.tallies import Displayed, Ranked
from rl_det.settings import takes

Objects = Int64[np.ndarray, " C"]
"""The number of true boxes of each class in a data set."""

REWARDS: dict[str, Callable[[Objects], Reward]] = {
    "pool_ap": lambda objects: PoolAp(),
    "ap50": lambda objects: PoolAp(AP50),
    "ap_small": lambda objects: PoolAp(AP_SMALL),
    "image_ap": lambda objects: Worth(image_ap_value),
    "image_ap_delta": lambda objects: Worth(image_ap_value, "by_change"),
    "batch_ap": lambda objects: BatchAp(),
    "matched_sum": lambda objects: Worth(MatchedSum.weighted(objects)),
    "f1": lambda objects: Worth(f1),
    "lrp": lambda objects: Worth(lrp),
    "cost": lambda objects: Worth(Cost()),
    "pool_f1": lambda objects: Worth(OverThePool(f1), "by_change"),
    "pool_cost": lambda objects: Worth(OverThePool(Cost()), "by_change"),
    "count_error": lambda objects: Worth(OverThePool(count_error), "by_change"),
}
"""The rewards of `gymnasium.make(..., reward=name)`. `reward` may also be a `Reward`, a formula, or a plain function."""
RewardLike = str | Reward | Tallied | DetectionsFunction
"""What names a reward: a name, a `Reward`, a formula of tallies such as `Cost(missed=-3.0)`, or a plain function
(detections, target) -> value (`rl_det.rewards.function`)."""

__all__ = [
    "AP50",
    "AP_SMALL",
    "REWARDS",
    "BatchAp",
    "Cost",
    "DetectionsFunction",
    "Displayed",
    "Edits",
    "FunctionValue",
    "LengthFactor",
    "MatchedSum",
    "OverThePool",
    "Pool",
    "PoolAp",
    "PotentialShaping",
    "Ranked",
    "Reward",
    "RewardLike",
    "Scene",
    "SignOfIouChange",
    "Step",
    "StepCost",
    "Sum",
    "Tallied",
    "Value",
    "Worth",
    "best_iou",
    "check_reward",
    "check_shape",
    "count_error",
    "f1",
    "image_ap_value",
    "lrp",
    "of_displayed",
    "of_ranked",
    "pool_mean_ap",
    "reward_named",
]


def check_reward(reward: RewardLike) -> None:
    """Raise ValueError, which lists the known names, for an unknown name or what is no reward at all."""
    if isinstance(reward, str) and reward not in REWARDS:
        raise UserError(f"reward must be one of {sorted(REWARDS)}; got {reward!r}")
    if isinstance(reward, type):
        raise UserError(f"reward must be an object, such as {reward.__name__}(); got the class {reward.__name__}")
    if not callable(reward) and not isinstance(reward, str):
        raise UserError(f"reward must be a name, a Reward or a function (detections, target) -> number; got {reward!r}")
    if not isinstance(reward, str | Reward | Tallied) and not takes(reward, 2):
        told = "; a value of edits becomes one by Worth(value), a potential by PotentialShaping(potential)"
        raise UserError(f"reward must take detections and target, if it is a function; got {reward!r}{told}")


def reward_named(reward: RewardLike, objects: Objects) -> Reward:
    """The reward of this name, for a data set with this many objects of each class.

    A `Reward` is returned as it is. A formula of tallies and a plain function become the value of an image's detections, paid
    at the end; a formula over the pool is paid by its change.
    """
    check_reward(reward)
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, Tallied):
        return Worth(reward, "by_change") if reward.pooled else Worth(reward)
    return REWARDS[reward](objects) if isinstance(reward, str) else Worth(FunctionValue(reward))
