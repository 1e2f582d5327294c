"""`rl-det compare`: strategies, seeds and folds side by side."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from rl_det.errors import UserError
from rl_det.finetuning.comparison import compare
from rl_det.finetuning.processes import On
from rl_det.finetuning.request import Request
from rl_det.program import ProgramFlags
from rl_det.settings import SEEDS, at_least, check_settings
from rl_det.storage.run import CONFIG


@dataclass(frozen=True, kw_only=True)
class CompareFlags(Request, ProgramFlags):
    """Run each strategy and seed in its own process, and compare them; with folds, every image is tested once."""

    strategies: tuple[str, ...] | None = None
    """Names of `rl_det.strategies.catalogue`, the control among them, or all; left out: the control, the same with hand-set
    votes, smooth-AP, and PPO, without votes where proposals have none."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The seeds; every strategy runs with each."""
    folds: int | None = None
    """Divide all images into so many folds, each with its own warm start, and test every image once; left out: the data's
    own test split."""
    reward: str = "pool_ap"
    """The reward of the strategies that have one."""
    workers: int = os.cpu_count() or 1
    """The number of processes at a time on a machine; its cores are divided among them."""
    on: On = "processes"
    """Where they run: in processes of this machine, or on the Ray cluster of RAY_ADDRESS (without it, on a local Ray)."""
    out: Path | None = None
    """The folder; left out: one in runs/, named after the comparison."""
    resume: bool = False
    """Go on with the comparison that the folder holds: results of the same configuration, data and weights are reused."""
    overwrite: bool = False
    """Run a strategy and seed again if the folder holds it with another configuration, other data or other weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, seeds=SEEDS, workers=at_least(1), folds=at_least(2, usual="5"))

    def folder(self) -> Path:
        """The default folder, named after the comparison."""
        data = "digit_scenes" if self.data is None else self.data.resolve().name
        folds = "" if self.folds is None else f"-{self.folds}folds"
        return self.out or Path("runs") / f"compare-{data}-{Path(self.detector).stem}-{self.budget}{folds}"


def run_compare(flags: CompareFlags) -> None:
    """`rl-det compare`."""
    request = Request(**{f.name: getattr(flags, f.name) for f in dataclasses.fields(Request)})
    out = flags.folder()
    if flags.resume and flags.overwrite:
        raise UserError(
            "--resume goes on with a comparison, --overwrite also runs again what differs; got both; give one of the two"
        )
    if not (flags.resume or flags.overwrite) and any(out.glob(f"*/{CONFIG}")):
        raise UserError(
            f"{out}: holds a comparison already; --resume goes on with it, --overwrite runs again what differs, "
            "and another folder (--out) leaves it alone"
        )
    compare(
        request,
        strategies=flags.strategies,
        seeds=flags.seeds,
        folds=flags.folds,
        reward=flags.reward,
        workers=flags.workers,
        on=flags.on,
        out=out,
        overwrite=flags.overwrite,
    )
    print((out / "comparison.md").read_text(encoding="utf-8"), end="")
    print(f"The comparison, its picture, its page and all runs are in {out}")
