"""How long does the first use on a machine compile?

    python experiments/benchmarks/first_use.py --json

A fresh process with an empty cache folder makes RescoreDetections (reward `pool_ap`), resets it, takes a step with credit,
evaluates four images, and takes a step of AdjustDetections; then another process does the same and finds all on disk.
`compile_seconds` is the difference of their CPU times, imports not counted; two minutes on two cores. What it printed last, and
where, is in experiments/benchmarks/README.md.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import gymnasium
import rl_det_envs.adjust_detections
import rl_det_envs.rescore_detections  # noqa: F401
import torch
import tyro
from numba.core import event
from rich import print_json

from rl_det.metrics.evaluation import quick_evaluate
from rl_det.types import Detections


@dataclass(frozen=True, kw_only=True)
class Config:
    json: bool = False
    """Print plain JSON."""
    inside: bool = False
    """Be the process that is measured; the benchmark starts it."""


def use() -> None:
    """What somebody tries first."""
    for name in ("Rescore", "Adjust"):
        envs = gymnasium.make_vec(f"rl_det/{name}Detections-v0", num_envs=2, vectorization_mode="vector_entry_point")
        envs.reset(seed=0)
        envs.action_space.seed(0)
        envs.step(envs.action_space.sample())
        targets = envs.unwrapped.data.targets[:4]  # type: ignore[attr-defined]
        found = [Detections(boxes=t.boxes, labels=t.labels, scores=torch.ones(len(t.labels))) for t in targets]
        quick_evaluate(found, targets, num_classes=envs.unwrapped.detector.num_classes)  # type: ignore[attr-defined]


class Clock(event.Listener):
    """CPU seconds of each function that Python calls, what it is made of included."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.depth, self.began = 0, 0.0

    def on_start(self, this: Any) -> None:
        self.began = process_time() if self.depth == 0 else self.began
        self.depth += 1

    def on_end(self, this: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            function = this.data["dispatcher"].py_func
            self.seconds[f"{function.__module__}.{function.__name__}"] += process_time() - self.began


def measure() -> dict[str, Any]:
    """CPU seconds of the first use in this process, and of what it compiled."""
    clock = Clock()
    event.register("numba:compile", clock)  # type: ignore[no-untyped-call]
    start = process_time()
    use()
    return {
        "seconds": process_time() - start,
        "functions": dict(sorted(clock.seconds.items(), key=lambda item: -item[1])),
    }


def main(config: Config) -> None:
    if config.inside:
        print(json.dumps(measure()))
        return
    command = [sys.executable, __file__, "--inside"]
    with TemporaryDirectory() as folder:
        # One thread, so that no CPU time is anybody's waiting.
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        cold, warm = (
            json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            for _ in range(2)
        )
    results = {
        "compile_seconds": cold["seconds"] - warm["seconds"], "cold_seconds": cold["seconds"],
        "warm_seconds": warm["seconds"], "compiled_when_warm": len(warm["functions"]),
        "compile_seconds_by_function": cold["functions"],
    }  # fmt: skip
    if config.json:
        print(json.dumps(results))
    else:
        print_json(data=results)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
