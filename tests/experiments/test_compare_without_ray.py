"""A comparison that is to run on Ray, where there is none: one line, before anything is made."""

import sys
from pathlib import Path

import pytest
from comparing import CONTROL, compared
from small_runs import Refusals

from rl_det.errors import UserError

pytestmark = pytest.mark.usefixtures("few_scenes")


def test_without_ray_one_sentence_says_how_to_get_it_before_anything_is_made(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"jobs on Ray need it: pip install 'rl_det\[ray\]'"):
        compared(tmp_path / "out", on="ray")
    assert not (tmp_path / "out").exists()
    assert not (cache / "warm_starts").exists()


@pytest.mark.parametrize("address", ["auto", "nonsense"])
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
