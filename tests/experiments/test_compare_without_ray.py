"""A comparison that is to run on Ray, where there is none: one line, before anything is made."""

import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from comparing import CONTROL, compared
from small_runs import Refusals

from rl_det.errors import UserError
from rl_det.finetuning.processes import runner_on

pytestmark = pytest.mark.usefixtures("few_scenes")


def test_without_ray_one_sentence_says_how_to_get_it_before_anything_is_made(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"jobs on Ray need it: pip install 'rl_det\[ray\]'"):
        compared(tmp_path / "out", on="ray")
    assert not (tmp_path / "out").exists()
    assert not (cache / "warm_starts").exists()


@pytest.mark.parametrize("address", ["auto", "nonsense", "127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_costs_one_line_before_anything_is_made(
    address: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rl_det[ray]'")
    monkeypatch.setenv("RAY_ADDRESS", address)
    line = Refusals("compare.py", capsys, monkeypatch)(
        "--budget", "smoke", "--device", "cpu", "--strategies", CONTROL, "--on", "ray", "--out", tmp_path / "out"
    )
    assert f"RAY_ADDRESS must be the address of a Ray cluster that runs; {address!r} gives: " in line
    assert not (tmp_path / "out").exists()
    assert not (cache / "warm_starts").exists()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How a Ray that connects to nothing has been asked to connect."""
    inits: list[dict[str, Any]] = []
    ray = SimpleNamespace(
        is_initialized=lambda: False, init=lambda **how: inits.append(how), remote=lambda **_: lambda function: function
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    return inits


@pytest.fixture
def port() -> int:
    """A port of this machine at which nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        free: int = one.getsockname()[1]
    return free


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_an_address_at_which_nothing_listens_is_named_at_once(
    address: str, port: int, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address.format(port))
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"RAY_ADDRESS must be .*; '{address.format(port)}' gives: .*refused"):
        runner_on("ray", 1)
    assert time.monotonic() - started < 15
    assert asked == []


def test_a_host_that_does_not_answer_is_waited_for_ten_seconds(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[tuple[Any, float]] = []

    def silent(address: Any, timeout: float) -> None:
        waited.append((address, timeout))
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    monkeypatch.setenv("RAY_ADDRESS", "10.255.255.1:6379")
    with pytest.raises(UserError, match=r"'10\.255\.255\.1:6379' gives: timed out; start one there"):
        runner_on("ray", 1)
    assert waited == [(("10.255.255.1", 6379), 10.0)]
    assert asked == []


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "auto", "local", "other://x:{}"])
def test_ray_is_asked_where_something_listens_and_where_the_address_names_no_host(
    address: str, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", address.format(server.getsockname()[1]))
        runner_on("ray", 1)
    assert len(asked) == 1
