"""The comparison: separate processes, resumed where it was stopped, one JSON, one table, one picture; and what it refuses."""

import json
from pathlib import Path
from typing import Any

import compare
import pytest
import run_strategy
import task
import tuning
import worlds
from PIL import Image

QUICK = ("post_processing_by_grid", "voting_untrained", "continued_supervised")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The smoke budget made smaller still, and a cache of the test's own."""
    monkeypatch.setenv("RL_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(task.NUM_SCENES, "smoke", {"train": 12, "val": 8, "test": 8})
    monkeypatch.setitem(tuning.NUM_UPDATES, "smoke", 2)
    monkeypatch.setattr(tuning, "IMAGES_PER_UPDATE", 6)
    monkeypatch.setattr(worlds, "SAMPLES_PER_IMAGE", 2)
    monkeypatch.setattr(compare, "NUM_DRAWS", 20)


def in_this_process(method: str, seed: int, arguments: compare.Arguments, folder: Path) -> None:
    """What a process of its own would do, at the tests' small sizes."""
    own = compare.run_folder(folder, method, seed)
    if not (own / "results.json").exists():
        flags = {"budget": "smoke", "device": "cpu", "seed": seed, "method": method, "out": own}
        run_strategy.main(run_strategy.Arguments(**flags, encodings=folder / "encodings"))  # type: ignore[arg-type]


def arguments(folder: Path, methods: tuple[str, ...], **rest: Any) -> compare.Arguments:
    given = {"budget": "smoke", "device": "cpu", "seeds": (0,), "workers": 1} | rest
    return compare.Arguments(methods=methods, out=folder, **given)


def test_it_writes_one_json_one_table_and_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "run_one", in_this_process)
    compare.main(arguments(tmp_path / "out", QUICK))
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert list(compared["methods"]) == list(QUICK)
    for method in compared["methods"].values():
        assert method["AP"]["low"] <= method["AP"]["value"] <= method["AP"]["high"]
        assert len(method["figures"]) == len(method["seconds"]) == 1
        assert 0 < method["figures"][0]["F1"] < 1
        assert method["AP"]["value"] == pytest.approx(method["figures"][0]["AP"], abs=1e-6)
    assert compared["methods"]["continued_supervised"]["over_control"] == {"value": 0, "low": 0, "high": 0}
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert table.count("\n") == 2 + len(QUICK)
    assert table.strip() in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert picture.size[0] > 500


def test_what_has_its_results_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "run_one", in_this_process)
    compare.main(arguments(tmp_path / "out", ("continued_supervised",), seeds=(0,)))
    kept = (tmp_path / "out" / "continued_supervised-seed0" / "results.json").stat().st_mtime_ns
    started: list[str] = []
    monkeypatch.setattr(
        run_strategy, "main", lambda given, main=run_strategy.main: (started.append(given.method), main(given))
    )
    compare.main(arguments(tmp_path / "out", ("continued_supervised", "warm_start"), seeds=(0,)))
    assert started == ["warm_start"]
    assert (tmp_path / "out" / "continued_supervised-seed0" / "results.json").stat().st_mtime_ns == kept


def test_a_method_runs_as_a_process_of_its_own_and_its_error_is_told(tmp_path: Path) -> None:
    wrong = arguments(tmp_path / "out", ("continued_supervised",), weights=str(tmp_path / "nowhere.pt"))
    with pytest.raises(ValueError, match=r"run_strategy.py .* ended with 2; .*nowhere.pt: must be a file of weights"):
        compare.run_one("continued_supervised", 0, wrong, tmp_path / "out")


@pytest.mark.parametrize(
    "method",
    [
        "voting_smooth_ap",
        "reinforce_without_credit",
        "ppo_rescore_group",
        "ppo_voting_from_plain_votes",
        "ppo_voting_and_smooth_ap",
    ],
)
def test_a_strategy_that_trains_runs(method: str, tmp_path: Path) -> None:
    given = compare.Arguments(methods=(method, "continued_supervised"), budget="smoke", device="cpu", seeds=(0,))
    in_this_process(method, 0, given, tmp_path)
    results = json.loads((compare.run_folder(tmp_path, method, 0) / "results.json").read_text())
    assert results["method"] == method
    assert 0 < results["figures"]["AP"] < 1


def test_few_training_images_are_seen_in_several_views_and_by_all_methods(tmp_path: Path) -> None:
    opened = task.open_task(task.Arguments(budget="smoke", device="cpu"))
    for budget, views in (("smoke", 1), ("short", tuning.MAX_VIEWS)):
        seen = tuning.tuned_on(opened, task.Arguments(budget=budget, device="cpu"))  # type: ignore[arg-type]
        assert len(seen.splits["train"]) == 12 * views
        assert seen.splits["val"] is opened.splits["val"]
        assert seen.splits["test"] is opened.splits["test"]


def test_unknown_methods_and_a_comparison_without_a_control_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a method must be one of warm_start, .*; got 'magic'"):
        compare.main(arguments(tmp_path, ("magic", "continued_supervised")))
    with pytest.raises(ValueError, match="the methods must hold continued_supervised"):
        compare.main(arguments(tmp_path, ("warm_start",)))
