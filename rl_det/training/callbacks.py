"""The callbacks of a run: progress bar, metrics on disk, checkpoints; trackers are in `trackers.py`."""

import time
from collections.abc import Callable
from pathlib import Path

from rl_det import parallel
from rl_det.progress import Bar, tell
from rl_det.storage.checkpoint import check_same, latest_checkpoint, restoring, write_checkpoint
from rl_det.storage.run import Run
from rl_det.training.loop import Callback, Ending, FitRun


class ProgressBar(Callback):
    """A bar with the remaining time and the latest validation figure."""

    def on_start(self, run: FitRun) -> None:
        self.bar = Bar(run.name, run.config.num_updates, initial=run.update)

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        figure = metrics.get(f"val_{run.config.monitor}")
        if figure is not None:
            self.bar.note(f"val {run.config.monitor} {100 * figure:.2f}")
        self.bar.reach(run.update)

    def on_end(self, run: FitRun, ending: Ending) -> None:
        self.bar.close()

    def on_error(self, run: FitRun) -> None:
        self.bar.close()


class MetricsLog(Callback):
    """Write a line of the run folder's `metrics.jsonl` for each update; a resumed run first drops the lines after its start."""

    def __init__(self, folder: Run) -> None:
        self.folder = folder

    def on_start(self, run: FitRun) -> None:
        self.folder.drop_metrics_after([run.name], run.update if run.begun else -1, tell)

    def on_step(self, run: FitRun, metrics: dict[str, float]) -> None:
        self.folder.log(run.update, run.name, metrics)


LONGEST = 600.0
"""The most seconds between two checkpoints."""


class Checkpoint(Callback):
    """The file from which a run resumes: written after each validation, in between, and on an interrupt.

    In between, writing takes at most this share of the time, or happens every ten minutes: a small head is written every
    second or so, a large one every few minutes. All other callbacks have then done their part of the update.

    If the file exists, the run resumes from it; ValueError, which names the file, if its configuration differs. The one
    before it is kept too, and used if the newest is damaged. Each holds the best weights so far, and, if there is a
    `clock`, the seconds of all processes that came to it: `before` are those of the ones that were stopped. List this callback
    before those that need to know where the run begins.
    """

    def __init__(self, path: Path, *, share: float = 0.01, clock: Callable[[], float] | None = None) -> None:
        self.path, self.share, self.clock = path, share, clock
        self.written, self.seconds, self.before = time.monotonic(), 0.0, 0.0

    def on_start(self, run: FitRun) -> None:
        state = latest_checkpoint(self.path, tell)
        if state is not None:
            check_same(self.path, state.get("config", {}), run.state_dict()["config"])
            with restoring(self.path):
                run.load_state_dict(state)
                self.before = float(state.get("seconds", 0.0))

    def on_complete(self, run: FitRun, *, validated: bool) -> None:
        since = time.monotonic() - self.written
        if validated or self.share * since > min(self.seconds, self.share * LONGEST):
            self.save(run)

    def on_end(self, run: FitRun, ending: Ending) -> None:
        if ending.reason == "interrupted":
            self.save(run)

    def save(self, run: FitRun) -> None:
        """Write the file, whole or not at all; of processes that train together, the main one does."""
        started = time.monotonic()
        if parallel.is_main():
            so_far = {} if self.clock is None else {"seconds": self.before + self.clock()}
            write_checkpoint(self.path, run.state_dict() | so_far)
        self.written = time.monotonic()
        self.seconds = self.written - started
