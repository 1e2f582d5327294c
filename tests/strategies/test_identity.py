"""The identity of a strategy's settings: other functions are other settings, so that a run is not resumed with them."""

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import TransformReward

from rl_det.rewards import Edits, Reward, of_displayed, of_ranked
from rl_det.rewards.tallies import Displayed
from rl_det.strategies.identity import settings_of
from rl_det.strategies.ppo import PPO
from rl_det.types import Detections, Target

PRICE = 0.1


def priced(found: Detections, target: Target, price: float = 0.1) -> float:
    return len(target.labels) - price * len(found["scores"])


def by_a_constant(found: Detections, target: Target) -> float:
    return -PRICE * len(found["scores"])


def by_another(found: Detections, target: Target) -> float:
    return by_a_constant(found, target)


def recursive(found: Detections, target: Target) -> float:
    return 0.0 if found is None else recursive(None, target)  # type: ignore[arg-type]


def held(price: Any) -> Callable[..., float]:
    return lambda found, target: -price * len(found["scores"])


class Priced:
    def __init__(self, price: float) -> None:
        self.price = price

    def __call__(self, found: Detections, target: Target) -> float:
        return -self.price

    def value(self, found: Detections, target: Target) -> float:
        return -self.price


@of_displayed
def by_tallies(tallies: Displayed) -> np.ndarray:
    return tallies.found - PRICE * tallies.spurious


@lru_cache
def cached(count: int) -> float:
    return -PRICE * count


def by_a_cached_one(found: Detections, target: Target) -> float:
    return cached(len(found["scores"]))


class Helper:
    factor = 1.0

    @staticmethod
    def value(found: Detections) -> float:
        return PRICE * len(found["scores"])


def by_a_class(found: Detections, target: Target) -> float:
    return Helper.factor * Helper.value(found)


class Own(Reward):
    def __call__(self, before: Edits, after: Edits, *, ended: np.ndarray) -> np.ndarray:
        return PRICE * np.ones(len(after.images))


LOG = logging.getLogger(__name__)


def logging_one(found: Detections, target: Target) -> float:
    LOG.debug("%s", found)
    return -PRICE * len(found["scores"])


@dataclass(frozen=True, slots=True)
class Slotted:
    price: Fraction

    def __call__(self, found: Detections, target: Target) -> float:
        return -float(self.price)


class Circle:
    def __init__(self, price: float) -> None:
        self.price, self.itself, self.method = price, self, self.value

    def __call__(self, found: Detections, target: Target) -> float:
        return self.method(found)

    def value(self, found: Detections) -> float:
        return -self.price


def identity(reward: Any) -> Any:
    return settings_of(PPO(reward=reward))["reward"]


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (lambda found, target: 1.0, lambda found, target: 1.0, lambda found, target: 2.0),
        (partial(priced, price=0.1), partial(priced, price=0.1), partial(priced, price=0.2)),
        (held(0.1), held(0.1), held(0.2)),
        (Priced(0.1), Priced(0.1), Priced(0.2)),
        (Priced(0.1).value, Priced(0.1).value, Priced(0.2).value),
        (partial(priced, np.ones(3)), partial(priced, np.ones(3)), partial(priced, np.zeros(3))),
        (partial(priced, {"a": 1}), partial(priced, {"a": 1}), partial(priced, {"a": 2})),
        (lambda found, target: max(x for x in (1, 2)), lambda found, target: max(x for x in (1, 2)),
         lambda found, target: max(x for x in (1, 3))),
        (priced, priced, by_a_constant),
        (recursive, recursive, by_another),
        ("f1", "f1", "lrp"),
        (held({"a", "b"}), held({"b", "a"}), held({"a", "c"})),
        (held(np.int64(1)), held(np.int64(1)), held(np.int64(2))),
        (held(np.float32(1)), held(np.float32(1)), held(np.float32(2))),
        (held(range(3)), held(range(3)), held(range(4))),
        (held(Fraction(1, 3)), held(Fraction(1, 3)), held(Fraction(2, 3))),
        (held(Path("a")), held(Path("a")), held(Path("b"))),
        (held(torch.ones(2, dtype=torch.bfloat16)), held(torch.ones(2, dtype=torch.bfloat16)),
         held(torch.zeros(2, dtype=torch.bfloat16))),
        (held(np.array([1, "a"], dtype=object)), held(np.array([1, "a"], dtype=object)),
         held(np.array([1, "b"], dtype=object))),
        (Slotted(Fraction(1, 3)), Slotted(Fraction(1, 3)), Slotted(Fraction(2, 3))),
        (Circle(0.1), Circle(0.1), Circle(0.2)),
        (held(Lock()), held(Lock()), held(0.1)),
    ],
)  # fmt: skip
def test_equal_functions_have_one_identity_and_different_ones_have_two(one: Any, same: Any, other: Any) -> None:
    assert identity(one) == identity(same)
    assert identity(one) != identity(other)
    assert "0x" not in str(identity(one))


@pytest.mark.parametrize(
    "reward", [by_a_constant, by_another, by_tallies, by_a_cached_one, by_a_class, Own(), logging_one]
)
def test_what_a_reward_uses_of_its_module_is_part_of_it(reward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(reward)
    assert identity(reward) == before
    monkeypatch.setitem(globals(), "PRICE", 0.2)
    assert identity(reward) != before


def test_the_values_of_a_class_that_it_uses_are_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(by_a_class)
    monkeypatch.setattr(Helper, "factor", 2.0)
    assert identity(by_a_class) != before


def test_a_reward_that_holds_much_is_known_by_a_hash() -> None:
    def holding(last: int) -> Any:
        return identity(partial(priced, [*range(9999), last]))

    assert holding(1) == holding(1) != holding(2)
    assert len(str(holding(1))) < 200


def test_two_kinds_of_tallies_are_two_rewards() -> None:
    def formula(tallies: Any) -> Any:
        return tallies.objects

    assert identity(of_displayed(formula)) != identity(of_ranked(formula))


OF_A_MODULE = """
import a_helper

def reward(found, target):
    return a_helper.value(found)
"""


def test_what_it_uses_of_another_module_of_the_users_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_reward.py").write_text(OF_A_MODULE)
    (tmp_path / "a_helper.py").write_text("def value(found):\n    return 0.1\n")
    reward, helper = (importlib.import_module(name) for name in ("a_reward", "a_helper"))
    before = identity(reward.reward)
    monkeypatch.setattr(helper, "value", lambda found: 0.2)
    assert identity(reward.reward) != before


def test_a_wrap_has_one_too() -> None:
    def wrapped(scale: float) -> Any:
        return settings_of(PPO(wrap=lambda envs: TransformReward(envs, lambda reward: scale * reward)))["wrap"]

    assert wrapped(1.0) == wrapped(1.0) != wrapped(2.0)


OF_STRINGS = """
from rl_det.strategies.ppo import PPO
from rl_det.strategies.identity import settings_of

def chosen(found, target):
    return float(all(name in {"boxes", "scores", "labels", "masks", "areas"} for name in found))

print(settings_of(PPO(reward=chosen))["reward"])
"""


def test_a_set_of_strings_is_the_same_in_each_process(tmp_path: Path) -> None:
    script = tmp_path / "of_strings.py"
    script.write_text(OF_STRINGS)
    told = [
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert told[0].strip()
    assert len(set(told)) == 1
