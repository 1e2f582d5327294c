"""Question: does a run's memory stay as it is after its first tenth?

Command: python experiments/benchmarks/memory.py --strategies ppo labels
Hardware: two CPU cores, Linux. Minutes: about ten for each strategy; target: a growth of at most 2 %.

Each strategy tunes `tiny` on digit scenes, in a process of its own. A thread reads the process's memory without the pages of
files (RssAnon) 50 times a second. The growth is the peak after the first tenth of the updates, over the peak until there.
"""

import json
import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

import rl_det
from rl_det.finetuning.budget import BUDGETS
from rl_det.strategies.strategy import Strategy
from rl_det.training.loop import Callback, Ending, FitRun

STATUS = Path("/proc/self/status")
EVERY = 0.02
"""Seconds between two readings."""
MIB = 2**20
STRATEGIES: Mapping[str, Strategy] = {
    "ppo": rl_det.PPO(collapse_margin=math.inf),
    "reinforce": rl_det.Reinforce(collapse_margin=math.inf),
    "surrogate": rl_det.Surrogate(),
    "labels": rl_det.Labels(),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Tune, and watch the memory."""

    strategies: tuple[str, ...] = ("ppo", "labels")
    """Which; `labels` is continued supervised training."""
    num_updates: int = 400
    """The length of each run."""
    train: int = 300
    """Training scenes."""
    inside: bool = False
    """Be the process of the one strategy, which is measured; the benchmark starts it."""


@dataclass
class Peaks(Callback):
    """The peak of the process's memory within each update, in bytes; the start is the first."""

    of_updates: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peak, self.ended = 0, threading.Event()

    def on_start(self, run: FitRun) -> None:
        threading.Thread(target=self.watch, daemon=True).start()

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        self.of_updates.append(max(self.peak, anonymous()))
        self.peak = 0

    def on_end(self, run: FitRun, ending: Ending) -> None:
        self.ended.set()

    def watch(self) -> None:
        while not self.ended.wait(EVERY):
            self.peak = max(self.peak, anonymous())


def anonymous() -> int:
    """The bytes of this process's memory that are no pages of files, by Linux."""
    (line,) = (line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def measured(name: str, config: Config) -> list[int]:
    """The peaks of one strategy's run in this process."""
    peaks = Peaks()
    data = rl_det.digit_scenes(train=config.train, val=100, test=20)
    detector = rl_det.load_detector("tiny", data, device="cpu")
    budget = rl_det.Budget(**(vars(BUDGETS["full"]) | {"num_updates": config.num_updates, "max_passes": 10**6,
                                                        "max_views": 1, "fit_evaluations": 0}))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        rl_det.finetune(
            detector,
            data,
            STRATEGIES[name],
            budget=budget,
            baselines=False,
            out=Path(folder) / "run",
            callbacks=[peaks],
        )
    return peaks.of_updates


def line(name: str, peaks: list[int]) -> str:
    """What a run's peaks say: by tenths of its updates, and the growth after the first."""
    tenths = [max(part) for part in np.array_split(peaks, 10)]
    told = " ".join(f"{tenth / MIB:.0f}" for tenth in tenths)
    growth = 100 * (max(tenths[1:]) / tenths[0] - 1)
    return f"{name:10} {len(peaks) - 1} updates, peaks of their tenths in MiB: {told}; growth {growth:+.2f} %"


def main(config: Config) -> None:
    """All strategies."""
    if config.inside:
        print(json.dumps(measured(config.strategies[0], config)))
        return
    for name in config.strategies:
        command = [sys.executable, __file__, "--inside", "--strategies", name]
        command += ["--num-updates", str(config.num_updates), "--train", str(config.train)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(line(name, json.loads(told.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
