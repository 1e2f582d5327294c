"""Question: does a run that is killed anywhere, and run again by the same command, end as if it had never been killed?

Command: python experiments/benchmarks/kill_and_resume.py --kills 20
Hardware: two CPU cores. Minutes: a minute for each kill of all six jobs together; expected: every job that is run again is
equal to the one that nobody killed, in all figures of all methods, bit for bit.

Each job tunes `tiny` on few digit scenes, in a process of its own. It runs once to its end, which says how long it takes.
Then it runs anew and is killed by SIGKILL at a moment that is uniform over that time, is run again and killed again, up to
three times, and then runs to its end.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

import rl_det
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.request import Request
from rl_det.storage.run import RESULTS
from rl_det.strategies.strategy import Strategy

IN_A_ROW = 3
"""Kills of one run before it may end."""
BUDGET = rl_det.Budget(
    num_updates=12,
    images_per_update=6,
    max_views=1,
    num_validations=6,
    evaluated_candidates=100,
    validated_candidates=64,
    supervised_steps=12,
    supervised_validations=6,
    num_draws=10,
)
STRATEGIES: dict[str, Strategy] = {
    "ppo": rl_det.PPO(samples_per_image=2),
    "reinforce": rl_det.Reinforce(policy="rescore", samples_per_image=2),
    "surrogate": rl_det.Surrogate(policy="rescore"),
    "labels": rl_det.Labels(),
    "supervised": rl_det.Supervised(batch_size=4, num_workers=0),
}
COMPARED = ("warm_start", "continued_supervised", "ppo_rescore")
JOBS = (*STRATEGIES, "compare")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Kill and run again."""

    kills: int = 20
    """Of each job."""
    jobs: tuple[str, ...] = JOBS
    """Which."""
    seed: int = 0
    """Of the moments."""
    json: bool = False
    """Print one JSON object; else a table."""
    job: str | None = None
    """Be the process of this job, in the folder `out`."""
    out: Path | None = None
    """The folder of that process."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job's runs: how many ended as the one that nobody killed, and how long that one took."""

    kills: int
    runs: int
    equal: int
    seconds: float


def main(config: Config) -> None:
    """All jobs; exit code 1 if one run ended otherwise."""
    if config.job is not None:
        assert config.out is not None
        work(config.job, config.out)
        return
    rng, outcomes = random.Random(config.seed), {}
    for job in config.jobs:
        with tempfile.TemporaryDirectory() as folder:
            outcomes[job] = torture(job, Path(folder), config.kills, rng)
        if not config.json:
            print(line(job, outcomes[job]), flush=True)
    if config.json:
        print(json.dumps({job: asdict(outcome) for job, outcome in outcomes.items()}, indent=2))
    sys.exit(any(outcome.equal < outcome.runs for outcome in outcomes.values()))


def line(job: str, o: Outcome) -> str:
    """A row of the table."""
    return f"{job:12} {o.kills:4} kills, {o.equal} of {o.runs} runs equal, {o.seconds:.1f} s without a kill"


def work(job: str, out: Path) -> None:
    """The job itself, which begins, or goes on where it was killed."""
    if job == "compare":
        request = Request(budget="smoke", device="cpu")
        compare(request, strategies=COMPARED, seeds=(0,), budget=BUDGET, workers=2, out=out)
        return
    data = rl_det.digit_scenes(train=12, val=8, test=8)
    detector = rl_det.load_detector("tiny", data, device="cpu")
    rl_det.finetune(detector, data, STRATEGIES[job], budget=BUDGET, baselines=False, out=out, resume=True)


def torture(job: str, folder: Path, kills: int, rng: random.Random) -> Outcome:
    """Kill runs of a job so many times in all."""
    run(job, folder / "compiled")  # so that what follows does not wait for the compiler
    started = time.perf_counter()
    run(job, folder / "whole")
    seconds, wanted = time.perf_counter() - started, figures(folder / "whole")
    done = runs = equal = 0
    while done < kills:
        own = folder / f"killed{runs}"
        in_a_row = sum(run(job, own, rng.uniform(0, seconds)) for _ in range(min(IN_A_ROW, kills - done)))
        run(job, own)
        done, runs, equal = done + max(1, in_a_row), runs + 1, equal + (figures(own) == wanted)
    return Outcome(kills=done, runs=runs, equal=equal, seconds=round(seconds, 1))


def run(job: str, out: Path, moment: float | None = None) -> bool:
    """Run a job's process, kill it at a moment, and say whether it was killed before its end. ValueError if it fails."""
    command = [sys.executable, __file__, "--job", job, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, printed = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise ValueError(f"{job} in {out} ended with {process.returncode}: {printed[-2000:]}")
    return False


def figures(out: Path) -> dict[str, Any]:
    """The figures of all methods of a run, or of all runs of a comparison."""
    return {
        str(file.relative_to(out)): json.loads(file.read_text(encoding="utf-8"))["methods"]
        for file in sorted(out.rglob(RESULTS))
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
