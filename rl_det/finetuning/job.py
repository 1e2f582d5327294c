"""Run one strategy with one seed, in one fold, in this process: `python -m rl_det.finetuning.job JOB.json`."""

import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rl_det.data.folds import folds
from rl_det.data.splits import Splits
from rl_det.detectors import Detector
from rl_det.errors import UserError
from rl_det.finetuning.budget import Budget
from rl_det.finetuning.finetune import finetune
from rl_det.finetuning.job_process import TOLD
from rl_det.finetuning.request import Request
from rl_det.program import program
from rl_det.progress import heard_by
from rl_det.rewards import check_reward
from rl_det.storage.checksums import read_sealed, write_sealed
from rl_det.strategies.catalogue import CATALOGUE
from rl_det.strategies.ppo import PPO
from rl_det.strategies.reinforce import Reinforce
from rl_det.strategies.strategy import Strategy

WATCHED_EVERY = 0.5  # seconds
A_JOB = "the job of a comparison"


class Cell(NamedTuple):
    """One cell of a comparison: a strategy with a seed, in a fold."""

    strategy: str
    seed: int
    fold: int | None = None
    """From 1; None: the comparison has no folds."""

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.strategy}-seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")


@dataclass(frozen=True, kw_only=True)
class JobFile:
    """The instructions of a job's process, in JSON's types."""

    request: Request
    budget: Budget
    strategy: str
    reward: str
    seed: int
    encodings: Path
    out: Path
    fold: int | None = None
    """From 1."""
    num_folds: int | None = None

    def write(self, file: Path) -> None:
        """Write the file, with its own checksum."""
        write_sealed(file, asdict(self))

    @classmethod
    def read(cls, file: Path) -> "JobFile":
        """Read what `write` wrote; UserError, which names the file, if it is damaged."""
        told = read_sealed(file, A_JOB, demanded=True)
        try:
            return cls._of(told)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: must be {A_JOB} of this version; got {error!r}") from error

    @classmethod
    def _of(cls, told: dict[str, Any]) -> "JobFile":
        paths = {name: told["request"][name] and Path(told["request"][name]) for name in ("data", "test_data")}
        request = told["request"] | paths
        scale = tuple(told["budget"]["view_scale"])
        return cls(
            request=Request(**request),
            budget=Budget(**{**told["budget"], "view_scale": scale}),
            strategy=told["strategy"],
            reward=told["reward"],
            seed=told["seed"],
            encodings=Path(told["encodings"]),
            out=Path(told["out"]),
            fold=told["fold"],
            num_folds=told["num_folds"],
        )

    def open(self) -> tuple[Splits, Detector]:
        """The data of the job's fold, and the detector."""
        data, detector = self.request.open()
        return parts_of(data, self.num_folds)[self.fold], detector


def parts_of(data: Splits, num_folds: int | None) -> dict[int | None, Splits]:
    """The folds by their numbers from 1; without folds, the data themselves under None."""
    if num_folds is None:
        return {None: data}
    return dict(enumerate(folds(data, num_folds), start=1))


def strategy_of(name: str, reward: str) -> Strategy:
    """The catalogue's strategy, with this reward if it has one."""
    check_reward(reward)
    strategy = CATALOGUE[name]
    return replace(strategy, reward=reward) if isinstance(strategy, PPO | Reinforce) else strategy


def run(job: JobFile) -> None:
    """Tune, detect and evaluate; resume where an earlier process was stopped."""
    data, detector = job.open()
    strategy = strategy_of(job.strategy, job.reward)
    finetune(
        detector,
        data,
        strategy,
        budget=job.budget,
        seed=job.seed,
        out=job.out,
        resume=True,
        baselines=False,
        encodings=job.encodings,
        **job.request.keywords() | vars(job.request.frozen_for(strategy)),
    )


def end_with_parent() -> None:
    """End this process when its parent has ended, because two processes must not work in one folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHED_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the job; a user's mistake prints one line and ends with exit code 2.

    What is told goes to standard output too, from which the comparison passes it on.
    """
    end_with_parent()
    with program(again=""), heard_by(lambda line: print(f"{TOLD}{line}", flush=True)):
        run(JobFile.read(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
