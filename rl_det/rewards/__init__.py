"""Scores before and after, and how the boxes relate -> a reward per episode and a credit per candidate, by name."""

from rl_det.rewards.average_precision import Reward, image_ap, pool_ap

REWARDS: dict[str, Reward] = {"pool_ap": pool_ap, "image_ap": image_ap}


def reward_named(name: str) -> Reward:
    """The reward that `gymnasium.make(..., reward=name)` asks for; ValueError lists the names there are."""
    if name not in REWARDS:
        raise ValueError(f"reward must be one of {sorted(REWARDS)}; got {name!r}")
    return REWARDS[name]
