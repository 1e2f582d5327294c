"""The learning rate's course."""

from collections.abc import Callable

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rl_det.training.schedules import warm_cosine, warm_steps


def course(num_steps: int, make: Callable[[Optimizer, int], LambdaLR] = warm_cosine) -> list[float]:
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 2.0}])
    schedule = make(optimizer, num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_it_rises_for_a_twentieth_then_falls_to_nearly_nothing() -> None:
    rates = course(200)
    assert rates[0] == pytest.approx(0.2)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == pytest.approx(2.0, rel=0.02)
    assert rates[100] == pytest.approx(1.0)
    assert 0 < rates[-1] < 0.001


def test_one_step_is_a_course_too() -> None:
    assert course(1) == [2.0]


def test_by_steps_it_rises_for_a_twentieth_then_drops_to_a_tenth_twice() -> None:
    rates = course(180, warm_steps)
    assert rates[0] == pytest.approx(2.0 / 9)
    assert rates[:9] == sorted(rates[:9])
    assert [rates[step] for step in (9, 119, 120, 159, 160, 179)] == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02, 0.02])
