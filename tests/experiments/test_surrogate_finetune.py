"""The surrogates' script: what it writes, that it repeats itself, and that its control is the one of ppo_finetune.py."""

import json
from pathlib import Path
from typing import Any, get_args

import ppo_finetune
import pytest
import surrogate_finetune
import task
import tuning
import tyro
import worlds

from rl_det.training import surrogate


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The smoke budget made smaller still, and a cache of the test's own."""
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(task.NUM_SCENES, "smoke", {"train": 12, "val": 8, "test": 8})
    monkeypatch.setitem(tuning.NUM_UPDATES, "smoke", 2)
    monkeypatch.setattr(tuning, "IMAGES_PER_UPDATE", 6)
    monkeypatch.setattr(worlds, "SAMPLES_PER_IMAGE", 2)


def run(**arguments: Any) -> dict[str, Any]:
    surrogate_finetune.main(surrogate_finetune.Arguments(**{"budget": "smoke", "device": "cpu"} | arguments))
    results: dict[str, Any] = json.loads((arguments["out"] / "results.json").read_text())
    return results


def lines(folder: Path, stage: str) -> list[dict[str, Any]]:
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in written if line["stage"] == stage]


def test_a_run_leaves_its_whole_folder_and_says_what_each_method_gave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = run(out=tmp_path / "run", loss="rank_sort")
    voted = ["warm_start_voted", "continued_supervised_voted"]
    assert list(results["methods"]) == ["warm_start", "continued_supervised", *voted, "surrogate"]
    assert set(results["seconds"]) == set(results["methods"])
    assert (results["loss"], results["policy"]) == ("rank_sort", "voting")
    for figures in results["methods"].values():
        assert 0 < figures["AP"] < figures["AP50"] <= 1
    files = {str(file.relative_to(tmp_path / "run")) for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert {"config.json", "metrics.jsonl", "checkpoints/surrogate.pt", "surrogate/detector.pt"} <= files
    assert "surrogate/voting.pt2" in files
    assert all("rank_sort" in line and "supervised" in line for line in lines(tmp_path / "run", "surrogate"))
    assert any("val_AP" in line for line in lines(tmp_path / "run", "surrogate"))
    assert "surrogate" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_methods_bit_for_bit_and_another_loss_does_not(tmp_path: Path) -> None:
    first, second = (run(out=tmp_path / name, policy="rescore") for name in "ab")
    run(out=tmp_path / "c", policy="rescore", loss="ap")
    assert first["methods"] == second["methods"]
    logs = [lines(tmp_path / name, "surrogate") for name in "abc"]
    assert logs[0] == logs[1]
    assert [line["loss"] for line in logs[0]] != [line["loss"] for line in logs[2]]


def test_the_control_is_that_of_ppo_and_as_long_as_the_surrogate(tmp_path: Path) -> None:
    ours = run(out=tmp_path / "surrogate", policy="rescore")
    arguments = task.Arguments(budget="smoke", device="cpu", policy="rescore", out=tmp_path / "ppo")
    ppo_finetune.main(arguments)
    theirs = json.loads((tmp_path / "ppo" / "results.json").read_text())
    for method in ("warm_start", "continued_supervised"):
        assert ours["methods"][method] == theirs["methods"][method]
    control = lines(tmp_path / "surrogate", "continued_supervised")
    assert control == lines(tmp_path / "ppo", "continued_supervised")
    assert [line["step"] for line in control] == [line["step"] for line in lines(tmp_path / "surrogate", "surrogate")]


def test_every_surrogate_is_a_flag_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    for name in get_args(surrogate.SurrogateName):
        assert tyro.cli(surrogate_finetune.Arguments, args=["--loss", name]).loss == name
        assert name in surrogate.SURROGATES
    with pytest.raises(SystemExit):
        tyro.cli(surrogate_finetune.Arguments, args=["--loss", "map"])
    assert "smooth_ap" in capsys.readouterr().err
