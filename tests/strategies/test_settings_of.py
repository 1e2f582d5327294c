"""The identity of a strategy's settings: other functions are other settings, so that a run is not resumed with them."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.wrappers.vector import TransformReward

from rl_det.strategies.ppo import PPO
from rl_det.strategies.strategy import settings_of
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


def held(price: float) -> Callable[..., float]:
    return lambda found, target: -price * len(found["scores"])


class Priced:
    def __init__(self, price: float) -> None:
        self.price = price

    def __call__(self, found: Detections, target: Target) -> float:
        return -self.price

    def value(self, found: Detections, target: Target) -> float:
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
    ],
)  # fmt: skip
def test_equal_functions_have_one_identity_and_different_ones_have_two(one: Any, same: Any, other: Any) -> None:
    assert identity(one) == identity(same)
    assert identity(one) != identity(other)
    assert "0x" not in str(identity(one))


def test_a_constant_or_a_function_of_the_module_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(by_a_constant), identity(by_another)
    monkeypatch.setitem(globals(), "PRICE", 0.2)
    after = identity(by_a_constant), identity(by_another)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_wrap_has_one_too() -> None:
    def wrapped(scale: float) -> Any:
        return settings_of(PPO(wrap=lambda envs: TransformReward(envs, lambda reward: scale * reward)))["wrap"]

    assert wrapped(1.0) == wrapped(1.0) != wrapped(2.0)


OF_STRINGS = """
from rl_det.strategies.ppo import PPO
from rl_det.strategies.strategy import settings_of

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
