"""Metrics beyond the bounds of healthy training: told at once and in the ending, kept by a checkpoint; training goes on."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from training.test_callbacks import FIGURES, LOOP, kill, outcome
from training.toy import StopAt, ToyLearner, config
from unchecked import unchecked

from rl_det.errors import UserError
from rl_det.training.bounds import Watch
from rl_det.training.callbacks import Checkpoint
from rl_det.training.loop import Ending, fit


def test_only_values_above_their_bound_count_by_their_distance_from_0(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch({"shift": 1.5, "kl": 0.2})
    for update, metrics in enumerate(
        [{"shift": -2.0, "kl": 0.2}, {"shift": 1.5}, {"other": 9.0}, {"shift": -7.25, "kl": 0.1}, {"kl": math.nan}], 1
    ):
        watch.see("ppo", update, metrics)
    assert watch.told(5) == "shift above 1.5 in 2 of 5 updates, at most 7.25"
    assert capsys.readouterr().err == (
        "ppo: shift is out of bounds in update 1: 2, healthy runs stay below 1.5; training goes on, and docs/metrics.md says "
        "what to do\n"
    )


def test_an_infinite_bound_is_none() -> None:
    watch = Watch({"kl": math.inf})
    watch.see("ppo", 1, {"kl": 1e30})
    assert watch.told(1) == ""


def test_a_run_beyond_its_bounds_goes_on_and_its_ending_tells_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    bounds = {"grad_norm": 1e-3, "loss": 1e9}
    ending = fit(ToyLearner([0.1, 0.2, 0.3, 0.2]), config(bounds=bounds), name="toy")
    assert (ending.reason, ending.update, ending.best) == ("budget", 4, 0.3)
    assert ending.out_of_bounds.startswith("grad_norm above 0.001 in 4 of 4 updates, at most ")
    assert "loss" not in ending.out_of_bounds
    assert capsys.readouterr().err.count("out of bounds") == 1
    assert Ending(**json.loads(json.dumps(asdict(ending)))) == ending


@pytest.mark.parametrize("killed_at", [3, 5, 7])
def test_killed_and_resumed_it_tells_the_same(tmp_path: Path, killed_at: int) -> None:
    loop, file = replace(LOOP, bounds={"grad_norm": 12.0}), tmp_path / "toy.pt"
    whole, *_ = outcome(loop, FIGURES)
    assert "of 8 updates" in whole.out_of_bounds
    outcome(loop, FIGURES, Checkpoint(file), StopAt(killed_at, kill))
    resumed, *_ = outcome(loop, FIGURES[killed_at // 2 + 1 :], Checkpoint(file))
    assert resumed == whole


def test_a_skipped_update_is_not_beyond_its_bounds() -> None:
    learner = ToyLearner([0.5] * 4)

    def break_it(number: int) -> None:
        learner.scale = math.nan

    learner.before = break_it
    assert not fit(learner, config(bounds={"loss": 1e-9}), name="toy").out_of_bounds


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_a_bound_that_is_not_positive_is_refused(bound: float) -> None:
    with pytest.raises(UserError, match=r"bounds must be positive; got \{'loss': 1.0, 'kl': .*\}"):
        config(bounds={"loss": 1.0, "kl": bound})


@pytest.mark.parametrize("bounds", [{"kl": math.nan}, {"kl": "much"}, {1: 2.0}, [1.0]])
def test_bounds_are_names_with_numbers(bounds: Any) -> None:
    with pytest.raises(UserError, match=r"bounds must be a mapping to numbers; got "), unchecked():
        config(bounds=bounds)
