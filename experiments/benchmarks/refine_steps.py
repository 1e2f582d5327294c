"""Question: what does PPO's refining policy gain by several steps, against its start and against one step?

Commands: python experiments/benchmarks/refine_steps.py --steps 3 --seed 0    # and --steps 1, seeds 1, 2: the runs
          python experiments/benchmarks/refine_steps.py --table               # the table over these runs
Hardware, minutes and numbers: experiments/benchmarks/README.md.

The head stays as it is (`supervised_weight=0`), so all that is gained comes from the steps. One step and three see the
same images, as often. Intervals are a paired bootstrap over seeds and test images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

import rl_det
from rl_det.ap.matching import Matches, match
from rl_det.ap.padding import pad_detections, pad_targets
from rl_det.finetuning.budget import BudgetName
from rl_det.finetuning.request import NUM_SCENES
from rl_det.finetuning.results import read_detections
from rl_det.finetuning.tuned import tuned
from rl_det.policies.build import build_policy
from rl_det.program import program
from rl_det.report.bootstrap import interval, redrawn_ap

START = "warm_start"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Refine boxes by PPO in so many steps, or print the table."""

    steps: int = 3
    seed: int = 0
    budget: BudgetName = "short"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    learning_rate: float = 2e-3
    """PPO's peak rate."""
    out: Path = Path("runs/refine")
    table: bool = False
    """Print the table of all runs in the folder instead."""


def run(flags: Flags) -> None:
    """One seed, one number of steps."""
    data = rl_det.digit_scenes(**NUM_SCENES[flags.budget])
    detector = rl_det.load_detector("tiny", data, device=flags.device)
    agent = rl_det.PPO(
        name=f"refine_{flags.steps}",
        policy="refine",
        num_steps=flags.steps,
        learning_rate=flags.learning_rate,
        supervised_weight=0.0,
    )
    folder = flags.out / f"{agent.name}-seed{flags.seed}"
    result = rl_det.finetune(
        detector, data, agent, budget=flags.budget, seed=flags.seed, out=folder, baselines=False, resume=True
    )
    print(result.table())


def table(flags: Flags) -> None:
    """AP of each row, and its differences from the start and from one step, over all seeds."""
    data = rl_det.digit_scenes(**NUM_SCENES[flags.budget])
    samples = [data.test[index] for index in range(len(data.test))]
    truths = pad_targets([sample.target for sample in samples])
    runs = sorted(flags.out.glob("refine_*-seed*"))
    num_candidates = rl_det.load_tuned(runs[0] / runs[0].name.split("-")[0]).num_candidates
    policy = build_policy("rescore", rl_det.load_detector("tiny", data, device=flags.device))
    start = tuned(policy, data, num_candidates, START)
    found = pad_detections(start.detect([sample.image for sample in samples]))
    matches: dict[str, list[list[Matches]]] = {START: []}
    for folder in runs:
        name = folder.name.split("-")[0]
        own = match(read_detections(folder, name), truths, num_classes=len(data.classes))
        matches.setdefault(name, []).append([own])
    matches[START] = [[match(found, truths, num_classes=len(data.classes))]] * len(matches["refine_1"])
    redrawn = redrawn_ap(matches, num_draws=500, rng=np.random.default_rng(0))
    print("| row | AP | over its start | over one step |\n| --- | ---: | ---: | ---: |")
    for name, values in redrawn.items():
        shown = [interval(100 * own) for own in (values, values - redrawn[START], values - redrawn["refine_1"])]
        print(f"| {name} | " + " | ".join(f"{i.value:.2f} ({i.low:.2f} to {i.high:.2f})" for i in shown) + " |")


if __name__ == "__main__":
    with program(again=""):
        flags = tyro.cli(Flags)
        table(flags) if flags.table else run(flags)
