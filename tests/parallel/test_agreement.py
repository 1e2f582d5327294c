"""What processes that train together agree on, in one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rl_det import parallel
from rl_det.detectors.loading import device_named
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


def test_a_process_has_the_device_of_its_number_and_touches_none_before_cuda_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = list[torch.device]()
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("cpu") == torch.device("cpu")
    assert chosen == []
    assert device_named("cuda") == device_named("auto") == torch.device("cuda", 1)
    assert chosen == 2 * [torch.device("cuda", 1)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"has 1, and process 1 .* finds none; launch 1 .* or choose the device cpu"):
        device_named("auto")
