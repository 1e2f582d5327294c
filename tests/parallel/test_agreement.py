"""What processes that train together agree on, in one process."""

from collections.abc import Callable
from typing import Any

import pytest

from rl_det import parallel
from rl_det.errors import UserError
from rl_det.training import loop
from rl_det.training.interrupts import Pending


def test_a_signal_that_comes_while_processes_agree_counts_after_the_next_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pending, run = Pending(), object.__new__(loop.FitRun)
    run.ending = None

    def interrupted(compute: Callable[[], Any]) -> Any:
        told = compute()
        pending.number = 15
        return told

    monkeypatch.setattr(parallel, "of_main", interrupted)
    assert loop._goes_on(run, pending)
    assert pending.number == 15
    assert not loop._goes_on(run, pending)


def test_a_variable_of_a_scheduler_alone_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("RANK", raising=False)
    assert parallel.launched() == 1
    assert parallel.is_main()
    parallel.check_alone("a report")
    monkeypatch.setenv("RANK", "1")
    assert not parallel.is_main()
    with pytest.raises(UserError, match="a report is the work of one process"):
        parallel.check_alone("a report")
