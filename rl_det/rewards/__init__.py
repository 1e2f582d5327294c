"""Scores (and boxes) before and after, and how the boxes relate -> a reward per episode and a credit per candidate, by name."""

from rl_det.rewards import average_precision, box_moves
from rl_det.rewards.average_precision import Reward
from rl_det.rewards.box_moves import MoveReward

REWARDS: dict[str, Reward] = {"pool_ap": average_precision.pool_ap, "image_ap": average_precision.image_ap}
MOVE_REWARDS: dict[str, MoveReward] = {"pool_ap": box_moves.pool_ap, "image_ap": box_moves.image_ap}
"""The same, where boxes move."""


def reward_named(name: str) -> Reward:
    """The reward that `gymnasium.make(..., reward=name)` asks for; ValueError lists the names there are."""
    if name not in REWARDS:
        raise ValueError(f"reward must be one of {sorted(REWARDS)}; got {name!r}")
    return REWARDS[name]
