"""Runs that take seconds: few digit scenes, a budget of two updates, and the scripts, run in this very process."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rl_det
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.finetuning.job import JobFile
from rl_det.finetuning.processes import Processes

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SMALL = rl_det.Budget(
    num_updates=2,
    images_per_update=6,
    num_validations=2,
    max_views=1,
    evaluated_candidates=100,
    validated_candidates=64,
    supervised_steps=6,
    supervised_validations=3,
    warm_start_share=0.001,
    num_draws=10,
)


def small_data() -> Splits:
    """Few digit scenes."""
    return rl_det.digit_scenes(train=12, val=8, test=8)


def tiny(data: Splits, **options: Any) -> Detector:
    """The shipped detector, if nothing else is asked for."""
    return rl_det.load_detector("tiny", data, device="cpu", **options)


def lines(folder: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """A run's metrics, all or those of one stage."""
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in written if stage in (None, line["stage"])]


def results(folder: Path) -> dict[str, Any]:
    """`results.json`, in which figures that do not exist are None, and so equal each other."""
    told: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return told


def files(folder: Path) -> set[str]:
    """All files in a folder, by their paths in it."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def printed(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON that a benchmark prints, run in a process of its own."""
    command = [sys.executable, str(EXPERIMENTS / "benchmarks" / script), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def run_script(name: str, *flags: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `python experiments/NAME FLAGS` does."""
    with monkeypatch.context() as patched:
        patched.setattr("sys.argv", [name, *map(str, flags)])
        runpy.run_path(str(EXPERIMENTS / name), run_name="__main__")


class Refusals:
    """Asks a script for what it must refuse."""

    def __init__(self, script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.script, self.capsys, self.monkeypatch = script, capsys, monkeypatch

    def __call__(self, *flags: object) -> str:
        """The one line that the script ends with, and exit code 2."""
        with pytest.raises(SystemExit) as ending:
            run_script(self.script, *flags, monkeypatch=self.monkeypatch)
        assert ending.value.code == 2
        (line,) = [line for line in self.capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line


def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the processes that are started from now on."""
    names: list[str] = []
    run = Processes.run

    def noted(self: Processes, job: JobFile) -> None:
        names.append(job.out.name)
        run(self, job)

    monkeypatch.setattr(Processes, "run", noted)
    return names
