"""Ctrl-C and SIGTERM: what is done is kept, one line says how to go on, and going on leads to the same end."""

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from finetuning.small import write_folder

from rl_det.storage.run import METRICS, RESULTS

FLAGS = [
    "--budget",
    "smoke",
    "--limits.num-updates",
    "4",
    "--limits.images-per-update",
    "4",
    "--limits.num-draws",
    "5",
    "--limits.num-validations",
    "6",
    "--limits.evaluated-candidates",
    "80",
    "--limits.validated-candidates",
    "64",
    "--device",
    "cpu",
    "--policy",
    "rescore",
    "--ppo.samples-per-image",
    "2",
    "--ppo.collapse-margin",
    "1",
]
SILENCE = 20.0  # seconds; five on a machine that has nothing else to do


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rl_det.cli", "finetune", "--data", "data", "--out", name, *FLAGS]
    environment = {**os.environ, "RL_DET_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def methods(folder: Path) -> object:
    return json.loads((folder / RESULTS).read_text())["methods"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to its end, during which something moves all the time once it has begun."""
    folder = tmp_path_factory.mktemp("signals")
    write_folder(folder / "data")
    heard: list[float] = []
    with start(folder, "whole") as process:
        streams = process.stdout, process.stderr
        assert streams[0] is not None
        assert streams[1] is not None

        def listen() -> None:
            while streams[1] is not None and streams[1].read(1):
                heard.append(time.monotonic())

        listener = threading.Thread(target=listen)
        listener.start()
        table = streams[0].read()
        listener.join()
    assert process.returncode == 0
    assert "ppo" in table
    assert max(after - before for before, after in itertools.pairwise(heard)) < SILENCE
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_stops_goes_on_to_the_same_end(
    uninterrupted: Path, number: signal.Signals, code: int
) -> None:
    folder, name = uninterrupted, number.name
    process = start(folder, name)
    metrics = folder / name / METRICS
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    assert process.returncode == code, told
    last = told.strip().splitlines()[-1]
    assert last.startswith("stopped; what is done is kept, and this goes on: "), told
    assert "Traceback" not in told
    command = shlex.split(last.partition("goes on: ")[2])
    assert command[-1] == "--resume"
    assert not (folder / name / RESULTS).exists()
    environment = {**os.environ, "RL_DET_CACHE": str(folder / "cache")}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert methods(folder / name) == methods(folder / "whole")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines]
    assert len(steps) == len(set(steps)), "no update is told twice"
