"""The surrogates' script: what a run writes, that it repeats itself, and that its control is the one of PPO."""

from pathlib import Path
from typing import Any, get_args

import pytest
import tyro
from small_runs import SMALL, files, lines, results, run_script, small_data, tiny

import rl_det
from rl_det.strategies.surrogate import SURROGATES, SurrogateName

pytestmark = pytest.mark.usefixtures("without_pages")


def tuned(strategy: Any, folder: Path, **options: Any) -> dict[str, Any]:
    data = small_data()
    rl_det.finetune(tiny(data), data, strategy, budget=SMALL, out=folder, **options)
    return results(folder)


def test_a_run_leaves_its_whole_folder_and_says_what_each_method_gave(tmp_path: Path) -> None:
    told = tuned(rl_det.Surrogate("rank_sort"), tmp_path / "run", baselines=False)
    assert list(told["methods"]) == list(told["seconds"]) == ["surrogate"]
    (settings,) = told["strategies"]
    assert (settings["loss"], settings["policy"]) == ("rank_sort", "voting")
    assert 0 < told["methods"]["surrogate"]["AP"] < told["methods"]["surrogate"]["AP50"] <= 1
    written = files(tmp_path / "run")
    assert {"config.json", "metrics.jsonl", "checkpoints/surrogate.pt", "surrogate/detector.pt"} <= written
    assert "surrogate/voting.pt2" in written
    steps = [line for line in lines(tmp_path / "run", "surrogate") if line["step"]]
    assert all("rank_sort" in line and "supervised" in line for line in steps)
    assert any("val_AP" in line for line in steps)


def test_the_same_seed_gives_the_same_methods_bit_for_bit_and_another_loss_does_not(tmp_path: Path) -> None:
    losses = {"a": "rank_sort", "b": "rank_sort", "c": "ap"}
    told = [
        tuned(rl_det.Surrogate(loss, policy="rescore"), tmp_path / name, baselines=False)  # type: ignore[arg-type]
        for name, loss in losses.items()
    ]
    assert told[0]["methods"] == told[1]["methods"]
    logs = [lines(tmp_path / name, "surrogate") for name in losses]
    assert logs[0] == logs[1]
    assert [line.get("loss") for line in logs[0]] != [line.get("loss") for line in logs[2]]


def test_the_control_is_that_of_ppo_and_as_long_as_the_surrogate(tmp_path: Path) -> None:
    ours = tuned(rl_det.Surrogate(policy="rescore"), tmp_path / "ours")
    theirs = tuned(rl_det.PPO(policy="rescore", samples_per_image=2), tmp_path / "theirs")
    assert list(ours["methods"]) == ["warm_start", "continued_supervised", "surrogate"]
    for method in ("warm_start", "continued_supervised"):
        assert ours["methods"][method] == theirs["methods"][method]
    control = lines(tmp_path / "ours", "continued_supervised")
    assert control == lines(tmp_path / "theirs", "continued_supervised")
    assert [line["step"] for line in control] == [line["step"] for line in lines(tmp_path / "ours", "surrogate")]


def test_every_surrogate_is_a_flag_and_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in get_args(SurrogateName):
        assert tyro.cli(rl_det.Surrogate, args=["--loss", name]).loss == name
        assert name in SURROGATES
    with pytest.raises(SystemExit):
        run_script("surrogate_finetune.py", "--surrogate.loss", "map", monkeypatch=monkeypatch)
    assert "smooth_ap" in capsys.readouterr().err
