"""Compare strategies over seeds in one table and one picture; each pair runs in its own process."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rl_det.ap.matching import Matches, match
from rl_det.ap.padding import pad_targets
from rl_det.errors import UserError
from rl_det.finetuning.budget import Budget, budget_named, in_batches_of, recipe_for
from rl_det.finetuning.caching import CacheLimits
from rl_det.finetuning.job import JobFile, strategy_of
from rl_det.finetuning.plan import Plan, plan_run
from rl_det.finetuning.request import Request
from rl_det.finetuning.results import read_detections
from rl_det.finetuning.warm_start import warm_start
from rl_det.progress import bar
from rl_det.report.bootstrap import interval, redrawn_ap
from rl_det.report.comparison import draw_comparison, markdown
from rl_det.storage.checkpoint import check_same
from rl_det.storage.files import as_json, check_writable, write_whole
from rl_det.storage.run import CONFIG, RESULTS, read_identity, remove_run
from rl_det.strategies.catalogue import CATALOGUE, check_names
from rl_det.strategies.labels import CONTROL

NUM_DRAWS = 400


def compare(
    request: Request,
    *,
    strategies: Sequence[str] = tuple(CATALOGUE),
    seeds: Sequence[int] = (0, 1, 2),
    reward: str = "pool_ap",
    budget: Budget | None = None,
    workers: int = os.cpu_count() or 1,
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run the pairs without results, then compare all; write `comparison.json`, `.md` and `.png` to `out`.

    A pair's results are reused only if they are of the same configuration, data and weights. Otherwise ValueError names
    the difference, unless `overwrite` runs the pair again. A stopped pair resumes. The cores are divided among
    `workers` processes.
    """
    check_names(strategies)
    if workers < 1:
        raise UserError(f"workers must be at least 1; got {workers}; the number of cores is usual")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds must be different numbers, one at least; got {tuple(seeds)}; 0 1 2 are usual")
    check_writable(out)
    data, detector = request.open()
    budget, recipe = in_batches_of(request.batch_size, budget or budget_named(request.budget), recipe_for(data))
    budget = replace(budget, fit_evaluations=0)  # here fitted post-processing is a strategy
    plans = {
        (name, seed): plan_run(detector, data, [strategy_of(name, reward)], budget, recipe, seed, baselines=False)
        for seed in seeds
        for name in strategies
    }
    for plan in plans.values():
        plan.limits = CacheLimits(memory=request.cache_memory, disk=request.cache_disk)
    waiting = [
        pair for pair, plan in plans.items() if not _is_done(out / folder_name(*pair), plan, overwrite=overwrite)
    ]
    if waiting:
        _encode(plans[waiting[0]], out / "encodings")
    with bar("compare", len(plans)) as shown, ThreadPoolExecutor(workers) as pool:
        shown.advance(len(plans) - len(waiting))
        processes = _Processes(workers)

        def one(pair: tuple[str, int]) -> None:
            name, seed = pair
            own = out / folder_name(name, seed)
            file = JobFile(request=request, budget=budget, strategy=name, reward=reward, seed=seed,
                           encodings=out / "encodings", out=own)  # fmt: skip
            processes.run(file)
            shown.advance(1)

        try:
            list(pool.map(one, waiting))  # an error of one ends the others' waiting, not their work
        except BaseException:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise
    truths = pad_targets([data.test[index].target for index in range(len(data.test))])
    matches = {
        name: [
            match(read_detections(out / folder_name(name, seed), name), truths, num_classes=detector.num_classes)
            for seed in seeds
        ]
        for name in strategies
    }
    facts = {"data": data.name, "detector": request.detector, "budget": request.budget, "reward": reward}
    compared = _compared(out, matches, seeds, facts)
    write_whole(out / "comparison.json", as_json(compared))
    write_whole(out / "comparison.md", markdown(compared) + "\n")
    draw_comparison(compared, out / "comparison.png")
    return compared


def folder_name(name: str, seed: int) -> str:
    """The folder's name for one strategy and seed."""
    return f"{name}-seed{seed}"


class _Processes:
    """The running processes of the jobs."""

    def __init__(self, workers: int) -> None:
        self.threads = str(max(1, (os.cpu_count() or 1) // workers))
        self.alive: set[subprocess.Popen[str]] = set()
        self.lock, self.stopped = threading.Lock(), False

    def run(self, job: JobFile) -> None:
        """Run one process to its end; UserError for a mistake of the user's or a kill, RuntimeError for one of ours."""
        job.out.mkdir(parents=True, exist_ok=True)
        file = job.out / "job.json"
        write_whole(file, job.to_json())
        environment = {**os.environ, "OMP_NUM_THREADS": self.threads, "NUMBA_NUM_THREADS": self.threads}
        command = [sys.executable, "-m", "rl_det.finetuning.job", str(file)]
        with self.lock:
            if self.stopped:
                return
            process = subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            self.alive.add(process)
        _, printed = process.communicate()
        with self.lock:
            self.alive.discard(process)
        if process.returncode and not self.stopped:
            told = f"{job.out}: {' '.join(command[1:])} ended with {process.returncode}"
            if process.returncode == 1:  # an error of ours, with its traceback
                raise RuntimeError(f"{told}\n{printed.strip()}")
            raise UserError(f"{told}; {' '.join(printed.split())[-500:]}")

    def stop(self) -> None:
        """Stop all processes; each keeps what it has done."""
        with self.lock:
            self.stopped = True
            for process in self.alive:
                process.terminate()


def _is_done(folder: Path, plan: Plan, *, overwrite: bool) -> bool:
    """Whether the folder holds the results of this same run; ValueError for another run's, unless it may be replaced."""
    if not (folder / CONFIG).exists():
        return False
    try:
        check_same(folder / CONFIG, read_identity(folder), plan.identity)
    except UserError:
        if not overwrite:
            raise
        remove_run(folder)
        return False
    return (folder / RESULTS).exists()


def _encode(plan: Plan, folder: Path) -> None:
    """Make the warm start, and the encodings that all processes share."""
    if not plan.detector.is_trained:
        warm_start(plan.detector, plan.data, plan.recipe.scaled(plan.budget.warm_start_share), plan.limits)
    plan.encodings, plan.remake = folder, True
    plan.encode("train")
    plan.encode("val")


def _compared(
    folder: Path, matches: dict[str, list[Matches]], seeds: Sequence[int], facts: dict[str, str]
) -> dict[str, Any]:
    """Every strategy's figures for each seed, and its AP and difference from the control with intervals."""
    with bar("intervals", NUM_DRAWS + 1) as shown:
        redrawn = redrawn_ap(matches, num_draws=NUM_DRAWS, rng=np.random.default_rng(0), on_draw=shown.advance)
    methods = {}
    for name in matches:
        runs = [json.loads((folder / folder_name(name, seed) / RESULTS).read_text(encoding="utf-8")) for seed in seeds]
        methods[name] = {
            "seconds": [run["seconds"][name] for run in runs],
            "figures": [{**run["methods"][name], "F1": run["F1_at_validations_threshold"][name]} for run in runs],
            "endings": [run["endings"][name]["reason"] for run in runs],
            "AP": vars(interval(redrawn[name])),
            "over_control": vars(interval(redrawn[name] - redrawn[CONTROL])),
        }
    return {
        **facts,
        "seeds": list(seeds),
        "images": {"test": len(next(iter(matches.values()))[0])},
        "methods": methods,
    }
