"""The comparison: separate processes, resumed where it was stopped, one JSON, one table, one picture; and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_runs import SMALL, Refusals, results, small_data, started, tiny

import rl_det
from rl_det.errors import UserError
from rl_det.finetuning import comparison, request
from rl_det.finetuning.budget import recipe_for
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.job import Cell, JobFile, strategy_of
from rl_det.finetuning.plan import plan_run
from rl_det.finetuning.processes import Processes, RayJobs
from rl_det.finetuning.request import Request
from rl_det.storage.run import Run

CONTROL = "continued_supervised"
QUICK = ("post_processing_by_grid", CONTROL)
REQUEST = Request(budget="smoke", device="cpu")
SCENES = {"train": 12, "val": 8, "test": 8}
TESTS = Path(__file__).parents[1]

ALONE = """
import pathlib, sys

from test_compare import CONTROL, compared, few_scenes

few_scenes()
compared(pathlib.Path(sys.argv[1]), strategies=(CONTROL,))
"""

ON_RAY = """
import pathlib, sys

from test_compare import compared, few_scenes
from rl_det.finetuning import comparison

few_scenes()
comparison.NUM_DRAWS = 20
compared(pathlib.Path(sys.argv[1]), on="ray")
"""
KILLED = """
if 'rl_det.finetuning.job' in sys.orig_argv:
    import os, pathlib, signal
    for number, victim in enumerate((os.getpid(), os.getppid())):  # first the job, at the next start the worker
        mark = pathlib.Path(__file__).with_name(f'killed{number}')
        if not mark.exists():
            mark.touch()
            os.kill(victim, signal.SIGKILL)
            os._exit(1)
"""


def few_scenes() -> None:
    """Of this process; the processes of jobs that it starts get theirs by `sitecustomize`."""
    request.NUM_SCENES["smoke"] = dict(SCENES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few scenes and few draws, here and in the processes that are started."""
    monkeypatch.setitem(request.NUM_SCENES, "smoke", SCENES)
    monkeypatch.setattr(comparison, "NUM_DRAWS", 20)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'rl_det.finetuning.job' in sys.orig_argv:\n"
        "    from rl_det.finetuning import request\n"
        f"    request.NUM_SCENES['smoke'] = {SCENES}\n"
    )
    paths = [str(site), str(Path(__file__).parent), str(TESTS), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def compared(folder: Path, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"strategies": QUICK, "seeds": (0,), "workers": 2, "budget": SMALL} | options
    return compare(REQUEST, out=folder, **given)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that has ended; tests work on copies."""
    return tmp_path_factory.mktemp("compared") / "out"


@pytest.fixture
def out(done: Path, tmp_path: Path) -> Path:
    """A copy of a comparison that has ended."""
    if not done.exists():
        compared(done)
    return Path(shutil.copytree(done, tmp_path / "out"))


def test_a_job_reads_what_it_was_told(tmp_path: Path) -> None:
    request = Request(data=tmp_path / "data", test_data=tmp_path / "test", max_aspect=3.5, budget="smoke", device="cpu")
    job = JobFile(
        request=request, budget=rl_det.Budget(num_updates=3), strategy="ppo_voting", reward="pool_ap", seed=1,
        encodings=tmp_path / "encodings", out=tmp_path / "out", fold=2, num_folds=5,
    )  # fmt: skip
    job.write(tmp_path / "job.json")
    assert JobFile.read(tmp_path / "job.json") == job


def test_it_writes_one_json_one_table_one_picture_and_one_page(out: Path) -> None:
    told = json.loads((out / "comparison.json").read_text())
    assert list(told["methods"]) == list(QUICK)
    for method in told["methods"].values():
        assert method["AP"]["low"] <= method["AP"]["value"] <= method["AP"]["high"]
        assert len(method["figures"]) == len(method["seconds"]) == 1
        assert 0 < method["figures"][0]["F1"] < 1
        assert method["AP"]["value"] == pytest.approx(method["figures"][0]["AP"], abs=1e-6)
    assert told["methods"][CONTROL]["over_control"] == {"value": 0, "low": 0, "high": 0}
    table = (out / "comparison.md").read_text()
    assert all(name in table for name in QUICK)
    with Image.open(out / "comparison.png") as picture:
        assert picture.size[0] > 500
    page = (out / "report.html").read_text().replace("<wbr>", "")
    assert all(f'<th scope="row">{name}</th>' in page for name in QUICK)
    assert all(f"{100 * method['AP']['value']:.2f} (" in page for method in told["methods"].values())


def test_a_strategy_has_a_second_row_with_fitted_post_processing_unless_it_is_post_processing_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCENES, "val", 16)  # as many as a fit needs
    here = tmp_path / "site" / "sitecustomize.py"
    here.write_text(here.read_text().replace("'val': 8", "'val': 16"))
    out = tmp_path / "out"
    told = compared(out, budget=replace(SMALL, fit_evaluations=22))["methods"]
    fitted = f"{CONTROL}_fitted"
    assert list(told) == [*QUICK, fitted]
    for method in told.values():
        over = method["AP"]["value"] - told[fitted]["AP"]["value"]
        assert method["over_fitted_control"]["value"] == pytest.approx(over, abs=1e-12)
    run = results(out / Cell(CONTROL, 0).folder)
    assert told[fitted]["AP"]["value"] == pytest.approx(run["methods"][fitted]["AP"], abs=1e-6)
    assert "| AP over control with fitted post-processing |" in (out / "comparison.md").read_text()


def test_what_has_its_results_is_not_run_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (out / Cell(CONTROL, 0).folder / "results.json").stat().st_mtime_ns
    names = started(monkeypatch)
    compared(out)
    assert names == []
    compared(out, strategies=(*QUICK, "warm_start"))
    assert names == ["warm_start-seed0"]
    assert (out / Cell(CONTROL, 0).folder / "results.json").stat().st_mtime_ns == kept


def test_damaged_results_are_told_and_made_anew_from_the_checkpoints(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(shutil.copytree(out, tmp_path / "own"))
    damage = {"warm_start": "results.json", CONTROL: f"test_detections/{CONTROL}.npz"}
    compared(own, strategies=tuple(damage))
    before = {name: results(own / Cell(name, 0).folder)["methods"] for name in damage}
    for name, file in damage.items():
        kept = own / Cell(name, 0).folder / file
        content = kept.read_bytes()
        kept.write_bytes(content[: len(content) // 2] + b"0" + content[len(content) // 2 + 1 :])
    names = started(monkeypatch)
    capsys.readouterr()
    compared(own, strategies=tuple(damage))
    told = [line for line in capsys.readouterr().err.splitlines() if "made anew" in line]
    assert sorted(names) == sorted(Cell(name, 0).folder for name in damage)
    assert [line.split(": ")[0] for line in told] == [str(own / Cell(n, 0).folder / file) for n, file in damage.items()]
    assert {name: results(own / Cell(name, 0).folder)["methods"] for name in damage} == before


def test_a_damaged_job_of_a_former_comparison_is_named(out: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(out, tmp_path / "own"))
    file = own / Cell(CONTROL, 0).folder / "job.json"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"^{file}: must be the job of a comparison; got "):
        compared(own)


def test_results_of_another_run_are_refused_by_what_differs_and_overwritten_if_asked_for(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (out / Cell(CONTROL, 0).folder / "results.json").read_text()
    other = SMALL.__class__(**{**vars(SMALL), "num_updates": 1})
    with pytest.raises(ValueError, match=r"config.json: .*budget was .*'num_updates': 2.* and is .*'num_updates': 1"):
        compared(out, budget=other)
    assert (out / Cell(CONTROL, 0).folder / "results.json").read_text() == before
    names = started(monkeypatch)
    compared(out, budget=other, strategies=(CONTROL,), overwrite=True)
    assert names == ["continued_supervised-seed0"]
    assert (out / Cell(CONTROL, 0).folder / "results.json").read_text() != before


def test_results_of_another_reward_are_refused_before_any_process_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, own = "ppo_rescore", tmp_path / "out" / Cell("ppo_rescore", 0).folder
    data, detector = REQUEST.open()
    wanted = [strategy_of(name, "pool_ap")]
    job = plan_run(detector, data, wanted, SMALL, recipe_for(data), 0, baselines=False, out=own)
    with Run(own, job.identity) as begun:
        begun.log(0, name, {"val_AP": 0.5})
    names = started(monkeypatch)
    with pytest.raises(ValueError, match=r"config.json: .*strategies was .*pool_ap.* and is .*image_ap"):
        compared(tmp_path / "out", strategies=(CONTROL, name), reward="image_ap")
    assert names == []


def test_a_comparison_that_is_killed_goes_on(out: Path, tmp_path: Path) -> None:
    own = tmp_path / "killed"
    alone = subprocess.Popen([sys.executable, "-c", ALONE, str(own)], stderr=subprocess.DEVNULL)
    while not list((own / Cell(CONTROL, 0).folder).glob("checkpoints/*")):
        assert alone.poll() is None
        time.sleep(0.01)
    alone.send_signal(signal.SIGKILL)
    alone.wait()
    assert not (own / "comparison.json").exists()
    compared(own, strategies=(CONTROL,))
    killed, whole = (results(folder / Cell(CONTROL, 0).folder)["methods"] for folder in (own, out))
    assert killed == whole


def test_an_error_of_a_process_is_told(tmp_path: Path) -> None:
    wrong = JobFile(
        request=Request(budget="smoke", device="cpu", weights=str(tmp_path / "nowhere.pt")),
        budget=SMALL,
        strategy=CONTROL,
        reward="pool_ap",
        seed=0,
        encodings=tmp_path / "encodings",
        out=tmp_path / "out",
    )
    with pytest.raises(
        UserError, match=r"rl_det.finetuning.job .* ended with 2; .*nowhere.pt: must be a file of"
    ) as told:
        Processes(1).run(wrong)
    assert "\n" not in str(told.value)
    ours = replace(wrong, request=Request(budget="smoke", device="cpu"), strategy="nonsense")
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1\nTraceback .*KeyError: 'nonsense'"):
        Processes(1).run(ours)


@pytest.mark.parametrize(
    "name",
    [
        "voting_smooth_ap",
        "reinforce_without_credit",
        "ppo_rescore_group",
        "ppo_voting_from_plain_votes",
        "ppo_voting_and_smooth_ap",
    ],
)
def test_a_strategy_that_trains_runs(name: str, tmp_path: Path) -> None:
    data, strategy = small_data(), strategy_of(name, "pool_ap")
    job = plan_run(tiny(data), data, [strategy], SMALL, recipe_for(data), 0, baselines=False, out=tmp_path)
    policy, task = strategy.start(job.detector).copy(), job.task(name)
    assert strategy.tune(policy, task).reason in ("budget", "collapse")  # of validation, on these few images
    assert 0 < task.validation_ap(policy) < 1


def test_few_training_images_are_seen_in_several_views_and_by_all_strategies(tmp_path: Path) -> None:
    data = small_data()
    for max_views in (1, 6):
        budget = SMALL.__class__(**{**vars(SMALL), "max_views": max_views})
        wanted = [strategy_of(CONTROL, "pool_ap")]
        job = plan_run(tiny(data), data, wanted, budget, recipe_for(data), 0, baselines=False, out=tmp_path)
        assert len(job.images("train")) == 12 * max_views
        assert job.images("val") is data.val


def test_unknown_strategies_rewards_and_a_comparison_without_a_control_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Refusals("compare.py", capsys, monkeypatch)
    own = ("--budget", "smoke", "--device", "cpu", "--out", tmp_path / "out")
    assert "'magic'" in refused("--strategies", "magic", CONTROL, *own)
    assert f"must hold {CONTROL}" in refused("--strategies", "warm_start", *own)
    assert "pool_ap" in refused("--strategies", CONTROL, "--reward", "map", *own)
    assert not (tmp_path / "out").exists()


def test_on_ray_the_results_are_the_same_and_a_killed_job_and_a_killed_worker_are_started_again(
    tmp_path: Path, out: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rl_det[ray]'")
    site = tmp_path / "site" / "sitecustomize.py"
    site.write_text(site.read_text() + KILLED)
    done = subprocess.run([sys.executable, "-c", ON_RAY, str(tmp_path / "ray")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(site.with_name(f"killed{number}").exists() for number in (0, 1))
    here, there = (json.loads((folder / "comparison.json").read_text()) for folder in (out, tmp_path / "ray"))
    assert list(there["methods"]) == list(QUICK)
    for name, method in here["methods"].items():
        assert {**there["methods"][name], "seconds": []} == {**method, "seconds": []}


def test_without_ray_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"jobs on Ray need it: pip install 'rl_det\[ray\]'"):
        RayJobs(2)
