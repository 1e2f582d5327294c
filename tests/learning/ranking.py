"""Environments on the toy whose credit is right, wrong or nothing, and what was learnt: for the ranking tests."""

from dataclasses import replace
from typing import Any

import torch
from learning.toy import NUM_PROPOSALS, ToyDetector, toy_data
from rl_det_envs.agent import Earned
from rl_det_envs.rescore_detections import RescoreDetectionsVector

from rl_det.policies.detections import policy_ap
from rl_det.policies.rescore import RescorePolicy

LEARNT, NOT_LEARNT = 0.95, 0.85
"""Validation AP; the best is 1, and the start is about 0.5."""


class ShuffledCredit(RescoreDetectionsVector):
    """Every candidate gets the credit of another one of its image."""

    def act(self, actions: Any, *, baseline: Any = None) -> Earned:
        earned = super().act(actions, baseline=baseline)
        away = torch.from_numpy(self.np_random.integers(1, NUM_PROPOSALS, (self.num_envs, 1)))
        order = (torch.arange(NUM_PROPOSALS) + away) % NUM_PROPOSALS
        return replace(earned, credit=earned.credit.gather(1, order))  # type: ignore[union-attr]


def made(env: type, seed: int, **options: Any) -> tuple[ToyDetector, Any]:
    detector = ToyDetector()
    envs = env(
        64, detector=detector, dataset=toy_data(seed), num_candidates=NUM_PROPOSALS, samples_per_image=4, **options
    )
    envs.reset(seed=seed)
    return detector, envs


class NothingToEarn(RescoreDetectionsVector):
    """No action is worth anything."""

    def act(self, actions: Any, *, baseline: Any = None) -> Earned:
        earned = super().act(actions, baseline=baseline)
        return replace(earned, reward=0 * earned.reward, credit=0 * earned.credit)  # type: ignore[operator]


def chance_and_validation(detector: ToyDetector, seed: int) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(seed), "validate": lambda: validation_ap(detector)}


def validation_ap(detector: ToyDetector) -> float:
    return policy_ap(RescorePolicy(detector, sigma=0.5), toy_data(99), NUM_PROPOSALS)
