"""Question: which way of bringing mAP into training raises it most, on the same images and for as many image passes?

Command: python experiments/compare.py --budget short --seeds 0 1 2
Hardware, hours and the tables with their intervals: experiments/README.md.

Every method and seed is a process of its own (run_strategy.py) with a folder of its own; one that has its results is not run
again, so a comparison that was stopped goes on where it was. At the end: comparison.json, comparison.md and comparison.png.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from approaches import STRATEGIES, check_strategies
from run_strategy import DETECTIONS, kept
from task import Arguments as CommonArguments
from task import Bar, clear_errors, open_task
from tuning import tuned_on

from rl_det.ap.batch import DetectionBatch
from rl_det.ap.matching import Matches, match
from rl_det.ap.padding import pad_targets
from rl_det.report.bootstrap import interval, redrawn_ap
from rl_det.report.comparison import draw_comparison, markdown
from rl_det.report.tables import CONTROL
from rl_det.storage.files import check_writable, write_whole

NUM_DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonArguments):
    """The flags of every experiment (the policy is the method's own), and what is compared."""

    methods: tuple[str, ...] = tuple(STRATEGIES)
    """Names of `approaches.STRATEGIES`; the control must be among them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Every method is run with each."""
    workers: int = os.cpu_count() or 1
    """Processes at a time; the cores are shared out among them."""


def main(arguments: Arguments) -> None:
    """Run what has no results yet, then compare all of it."""
    check_strategies(arguments.methods)
    if CONTROL not in arguments.methods:
        raise ValueError(
            f"the methods must hold {CONTROL}, with which all are compared; got {', '.join(arguments.methods)}"
        )
    folder = arguments.out or default_folder(arguments)
    check_writable(folder)
    task = tuned_on(open_task(arguments), arguments)
    splits = {split: kept(task, split, folder / "encodings") for split in ("train", "val", "test")}
    jobs = [(method, seed) for seed in arguments.seeds for method in arguments.methods]
    with Bar("compare", len(jobs)) as bar, ThreadPoolExecutor(arguments.workers) as pool:

        def one(job: tuple[str, int]) -> None:
            run_one(*job, arguments, folder)
            bar.advance(1)

        list(pool.map(one, jobs))  # an error of one ends the others' waiting, not their work
    truths, classes = pad_targets(splits["test"].targets), task.detector.num_classes
    matches = {
        method: [match(detections(run_folder(folder, method, seed)), truths, num_classes=classes) for seed in arguments.seeds]
        for method in arguments.methods
    }  # fmt: skip
    compared = comparison(folder, arguments, matches)
    write_whole(folder / "comparison.json", json.dumps(compared, indent=2) + "\n")
    table = markdown(compared)
    write_whole(folder / "comparison.md", table + "\n")
    draw_comparison(compared, folder / "comparison.png")
    print(table)
    print(f"The comparison, its picture and all runs are in {folder}")


def run_one(method: str, seed: int, arguments: Arguments, folder: Path) -> None:
    """One process; ValueError, with the last line of what it printed, if it fails."""
    own = run_folder(folder, method, seed)
    if (own / "results.json").exists():
        return
    flags = {"detector": arguments.detector, "reward": arguments.reward, "budget": arguments.budget,
             "device": arguments.device, "data": arguments.data, "weights": arguments.weights}  # fmt: skip
    given = [part for name, value in flags.items() if value is not None for part in (f"--{name}", str(value))]
    command = [sys.executable, str(Path(__file__).with_name("run_strategy.py")), "--method", method, "--seed", str(seed),
               "--encodings", str(folder / "encodings"), "--out", str(own), *given]  # fmt: skip
    threads = str(max(1, (os.cpu_count() or 1) // arguments.workers))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{own}: {' '.join(command[1:])} ended with {done.returncode}; {done.stderr.strip()[-500:]}")


def comparison(folder: Path, arguments: Arguments, matches: dict[str, list[Matches]]) -> dict[str, Any]:
    """Every method's figures by seed, and its AP and difference to the control with intervals."""
    redrawn = redrawn_ap(matches, num_draws=NUM_DRAWS, rng=np.random.default_rng(0))
    methods = {}
    for method in arguments.methods:
        runs = [json.loads((run_folder(folder, method, seed) / "results.json").read_text()) for seed in arguments.seeds]
        methods[method] = {
            "seconds": [run["seconds"] for run in runs],
            "figures": [run["figures"] for run in runs],
            "AP": vars(interval(redrawn[method])),
            "over_control": vars(interval(redrawn[method] - redrawn[CONTROL])),
        }
    return {
        "data": str(arguments.data or "digit_scenes"),
        "detector": arguments.detector,
        "budget": arguments.budget,
        "reward": arguments.reward,
        "seeds": list(arguments.seeds),
        "images": {"test": len(next(iter(matches.values()))[0])},
        "methods": methods,
    }


def detections(folder: Path) -> DetectionBatch:
    """What one run has found on the test split."""
    with np.load(folder / DETECTIONS) as found:
        return DetectionBatch(**{name: found[name] for name in found.files})


def run_folder(folder: Path, method: str, seed: int) -> Path:
    """Of one method and seed."""
    return folder / f"{method}-seed{seed}"


def default_folder(arguments: Arguments) -> Path:
    """A name that says what was compared."""
    data = "digit_scenes" if arguments.data is None else arguments.data.resolve().name
    return Path("runs") / f"compare-{data}-{arguments.detector}-{arguments.budget}"


if __name__ == "__main__":
    with clear_errors():
        main(tyro.cli(Arguments))
