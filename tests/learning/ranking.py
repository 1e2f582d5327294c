"""Environments on the toy whose credit is right, wrong, missing or nothing, and what was learnt: for the ranking tests."""

from typing import Any

import torch
from learning.toy import NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.rescore_detections import RescoreDetectionsVector

from rl_det.policies.detections import mean_ap
from rl_det.policies.rescore import RescorePolicy

LEARNT, NOT_LEARNT = 0.95, 0.85
"""Validation AP; the best is 1, and the start is about 0.5."""


class ShuffledCredit(RescoreDetectionsVector):
    """Every candidate gets the credit of another one of its image."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *outcome, info = super().step(actions)
        away = torch.from_numpy(self.np_random.integers(1, NUM_PROPOSALS, (self.num_envs, 1)))
        order = (torch.arange(NUM_PROPOSALS) + away) % NUM_PROPOSALS
        return *outcome, {"credit": info["credit"].gather(1, order)}  # type: ignore[return-value]


class NoCredit(RescoreDetectionsVector):
    """The reward alone, as from any other environment."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *outcome, _ = super().step(actions)
        return *outcome, {}  # type: ignore[return-value]


def made(env: type, seed: int, **options: Any) -> tuple[ToyDetector, Any]:
    detector = ToyDetector()
    envs = env(
        64, detector=detector, dataset=toy_data(seed), num_candidates=NUM_PROPOSALS, samples_per_image=4, **options
    )
    envs.reset(seed=seed)
    return detector, envs


class NothingToEarn(RescoreDetectionsVector):
    """No action is worth anything."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, *ends, info = super().step(actions)
        credit = torch.zeros_like(info["credit"])
        return observation, torch.zeros_like(reward), *ends, {"credit": credit}  # type: ignore[return-value]


def chance_and_validation(detector: ToyDetector, seed: int) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(seed), "validate": lambda: validation_ap(detector)}


def validation_ap(detector: ToyDetector) -> float:
    return mean_ap(RescorePolicy(detector, sigma=0.5), toy_data(99), NUM_PROPOSALS)
