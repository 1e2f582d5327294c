"""A run of seconds through the front door, alone or launched: `python -m parallel.small_run FOLDER... [FLAGS]`.

The flags are --resume and --without-pages.
"""

import sys
from dataclasses import replace
from pathlib import Path

from small_runs import SMALL, small_data, tiny

import rl_det
from rl_det import parallel
from rl_det.finetuning import pages
from rl_det.finetuning.results import Results
from rl_det.program import program

BUDGET = replace(SMALL, fit_evaluations=0)
RUN = "--module", "parallel.small_run"
"""What torchrun is to start."""


def run(folder: Path, *, resume: bool = False) -> Results:
    """Tune by PPO, beside the baselines."""
    data = small_data()
    strategy = rl_det.PPO(samples_per_image=2, num_candidates=32, context_candidates=0)
    return rl_det.finetune(tiny(data), data, strategy, budget=BUDGET, out=folder, resume=resume)


def main() -> None:
    """Run, in one folder after the other, and print the tables."""
    if "--without-pages" in sys.argv:
        pages.PAGES = {}
    with program():
        for folder in [Path(name) for name in sys.argv[1:] if not name.startswith("--")]:
            results = run(folder, resume="--resume" in sys.argv)
            print(parallel.world_size(), "processes")
            print(results.table(), end="")


if __name__ == "__main__":
    main()
