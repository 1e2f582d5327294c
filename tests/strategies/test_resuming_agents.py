"""Reinforcement learning that is killed and goes on from its checkpoint ends exactly as if it had never been stopped."""

import math
from pathlib import Path
from typing import Any

import pytest
from strategies.resuming import (
    INPUT_SIZE,
    Outcome,
    assert_it_repeats_itself_and_changes_something,
    assert_it_resumes,
    outcome,
)
from strategies.scenes import shipped, train_data

from rl_det.detectors.encodings import EncodedDataset
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.strategy import Strategy

LITTLE: dict[str, Any] = {"samples_per_image": 2, "num_candidates": 12, "context_candidates": 8}
STRATEGIES: dict[str, Strategy] = {
    "ppo": PPO(**LITTLE, begin="warm_start", num_updates=4, kl_weight=0.1),
    "ppo from votes": PPO(**LITTLE, begin="hand_set_votes", num_updates=4, kl_weight=0.1, learning_rate=1e-4),
    "reinforce": Reinforce(policy="context", **LITTLE),
}


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data(shipped(INPUT_SIZE))


@pytest.fixture(scope="module", params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return STRATEGIES[request.param]


@pytest.fixture(scope="module")
def whole(strategy: Strategy, data: EncodedDataset) -> Outcome:
    return outcome(strategy, data)


def test_a_run_is_the_same_again_and_says_something(strategy: Strategy, data: EncodedDataset, whole: Outcome) -> None:
    assert_it_repeats_itself_and_changes_something(strategy, data, whole)


@pytest.mark.parametrize(("killed_at", "share"), [(1, 0.0), (4, 0.0), (4, math.inf)])
def test_killed_and_resumed_it_ends_as_if_it_had_never_been_stopped(
    tmp_path: Path, strategy: Strategy, data: EncodedDataset, whole: Outcome, killed_at: int, share: float
) -> None:
    assert_it_resumes(tmp_path, strategy, data, whole, killed_at, share=share)
