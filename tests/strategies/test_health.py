"""A strategy whose KL or score scale leaves the bounds of healthy training goes on, and its row tells of it."""

from typing import Any

import pytest
import torch
from strategies.scenes import a_task, shipped, train_data

from rl_det.detectors.encodings import EncodedDataset
from rl_det.report.tables import endings_text
from rl_det.strategies import health
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.surrogate import Surrogate
from rl_det.training.loop import Ending

LITTLE: dict[str, Any] = {"num_candidates": 24, "context_candidates": 8, "samples_per_image": 2, "max_grad_norm": 1e9}
FREE = {"mean_shift_penalty": 0.0, "supervised_weight": 0.0, "collapse_margin": 1.0}


@pytest.fixture(scope="module")
def data() -> EncodedDataset:
    return train_data()


def tuned(strategy: Any, data: EncodedDataset) -> Ending:
    """How the strategy ends on a few images, in so many updates."""
    torch.manual_seed(0)
    task = a_task(data, num_steps=12, validate_every=12)
    ending: Ending = strategy.tune(strategy.start(shipped()), task)
    return ending


STRATEGIES = [
    (
        PPO(learning_rate=0.5, residual_penalty=0.0, num_updates=health.FEWEST_UPDATES, **LITTLE, **FREE),
        {"kl_old", "residual"},
    ),
    (Surrogate(learning_rate=0.5, residual_penalty=1e-6, max_grad_norm=1e9), {"residual"}),
]


@pytest.mark.parametrize(("strategy", "metrics"), STRATEGIES)
def test_a_huge_learning_rate_leaves_the_bounds_and_the_table_says_so(
    strategy: Any, metrics: set[str], data: EncodedDataset
) -> None:
    ending = tuned(strategy, data)
    assert ending.reason == "budget", "it goes on"
    assert metrics <= {part.split()[0] for part in ending.out_of_bounds.split("; ")}
    assert f"ppo was out of bounds: {ending.out_of_bounds}" in endings_text({"ppo": ending}).splitlines()


@pytest.mark.parametrize(
    "strategy",
    [
        PPO(learning_rate=1e-5, num_updates=health.FEWEST_UPDATES, **LITTLE),
        Reinforce(learning_rate=1e-5, policy="rescore", **LITTLE),
        Surrogate(learning_rate=1e-5),
        Surrogate(learning_rate=1e-5, residual_penalty=0.0),
    ],
)
def test_small_steps_stay_within_them(strategy: Any, data: EncodedDataset) -> None:
    assert not tuned(strategy, data).out_of_bounds


def test_the_bound_of_the_kl_follows_its_target() -> None:
    watched = PPO(target_kl=0.1).loop(health.FEWEST_UPDATES, 1.0, 1)
    assert watched.bounds["kl_old"] == 0.1 * health.KL_OVER_TARGET


def test_a_run_of_a_few_updates_which_begins_at_its_full_rate_is_not_watched() -> None:
    assert PPO().loop(health.FEWEST_UPDATES - 1, 1.0, 1).bounds == {}


def test_reinforce_has_a_bound_for_the_scale_of_its_scores() -> None:
    assert Reinforce().loop(1, 1.0, 1).bounds == {"mean_shift": health.MEAN_SHIFT}
