"""The training loop of all strategies: it leaves a learner at its best validation weights.

The loop owns the optimiser's steps, the schedule, the precision, the running mean of the weights, validation, the best
weights, patience, collapse and the reason of the end. A strategy supplies the update (`Learner`). Everything around an
update (bars, logs, checkpoints) is a callback (`rl_det.training.callbacks`), and a callback may end the run.

A run that is stopped anywhere resumes from its last checkpoint and ends the same, bit for bit on a CPU: the loop's state holds
all that the next update depends on, torch's global generators included.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, get_type_hints, runtime_checkable

import torch
from torch import Tensor, nn

from rl_det import parallel
from rl_det.errors import NotFiniteError
from rl_det.metrics.evaluation import LOWER_IS_BETTER
from rl_det.progress import tell
from rl_det.settings import fits
from rl_det.storage.memory import return_freed
from rl_det.training.averaging import averaged, copied
from rl_det.training.bounds import Watch
from rl_det.training.descent import Descent
from rl_det.training.interrupts import Interrupted, Pending, deferred
from rl_det.training.loop_config import LoopConfig

RETURNED_EVERY = 10
"""The updates after which freed memory is returned to the operating system."""
Reason = Literal["budget", "patience", "collapse", "nothing to learn", "not finite", "stopped", "interrupted"]
"""Why a run ended. budget: all updates are made; patience: validation made no progress; collapse: it fell far; nothing
to learn: no update had a gradient or an advantage; not finite: a loss, a gradient, a reward or the detector's output was NaN
or infinite in too many updates in a row, or in a validation; stopped: by a callback; interrupted: by a signal."""


@runtime_checkable
class Learner(Protocol):
    """The part of the loop that a strategy supplies."""

    @property
    def trainable(self) -> nn.Module:
        """All that is trained. Its state_dict is averaged, kept as the best, and written to checkpoints."""
        ...

    def update(self, number: int, descent: Descent) -> dict[str, float]:
        """Make update `number`, counted from 1, by one or several `descent.step(loss)`; return its metrics.

        The metric "signal", if there is one, is 0 if the update had nothing to learn from.
        """
        ...

    def validate(self) -> Mapping[str, float]:
        """The figures on the validation split, by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All else that the next update depends on (generators, orders, environments), as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""
        ...


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended: the reason, the update, and the best validation figure (None if there was none)."""

    reason: Reason
    update: int = 0
    best: float | None = None
    detail: str = ""
    best_update: int | None = field(default=None, compare=False)
    """The update after which that figure was measured; 0: the start."""
    skipped: int = 0
    """The number of updates that were skipped, as a number was NaN or infinite."""
    first_skipped: str = ""
    """What was not finite in the first of them, in which images."""
    out_of_bounds: str = ""
    """The metrics that were beyond their bounds, in how many updates, and how far."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Ending":
        """The ending that `asdict` gave. Raises TypeError for an entry that is missing, unknown, or of another type.

        A strategy of the user's own may have reasons of its own, and NaN for no figure.
        """
        best = plain.get("best")
        known = {**plain, "best": None} if isinstance(best, float) and math.isnan(best) else plain
        ending, hints = cls(**known), {**get_type_hints(cls), "reason": str}
        if wrong := [name for name, value in vars(ending).items() if not fits(value, hints[name])]:
            raise TypeError(f"{wrong[0]} is {getattr(ending, wrong[0])!r}")
        return ending


class Callback:
    """Hooks around the updates of a run; every hook does nothing unless it is overridden."""

    def on_start(self, run: "FitRun") -> None:
        """Called before the first update; `run.load_state_dict` resumes from a saved state."""

    def on_step(self, run: "FitRun", metrics: dict[str, float]) -> None:
        """Called after update `run.update` (0 is the start); the metrics include a validation's figures, as val_NAME."""

    def on_validation(self, run: "FitRun", figures: Mapping[str, float]) -> None:
        """Called after a validation and its `on_step`."""

    def on_complete(self, run: "FitRun", *, validated: bool) -> None:
        """Called when all callbacks have done what there was to do after an update (0 is the start), and its validation."""

    def on_end(self, run: "FitRun", ending: Ending) -> None:
        """Called after the last update."""

    def on_error(self, run: "FitRun") -> None:
        """Called in place of `on_end` if an exception ends the run."""


class FitRun:
    """A run of the loop as callbacks see it."""

    def __init__(self, learner: Learner, config: LoopConfig, name: str) -> None:
        self.learner, self.config, self.name = learner, config, name
        average = averaged(learner.trainable, config.ema) if config.ema else None
        self.descent = Descent(
            learner.trainable,
            num_updates=config.num_updates,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            schedule=config.schedule,
            max_grad_norm=config.max_grad_norm,
            mixed=config.mixed,
            average=average,
        )
        self.stopping = config.stopping()
        self.update, self.signal = 0, 0.0
        self.begun = False
        self.start_figure: float | None = None
        self.best: dict[str, Tensor] | None = None
        self.best_update: int | None = None
        self.skipped, self.skipped_in_row, self.first_skipped = 0, 0, ""
        self.watch = Watch(config.bounds)
        self.ending: Ending | None = None

    def stop(self, detail: str = "") -> None:
        """End the run after this update."""
        self.end("stopped", detail)

    def end(self, reason: Reason, detail: str = "") -> None:
        """Record why the run ends; the first reason stays."""
        self.ending = self.ending or self.ended(reason, detail)

    def ended(self, reason: Reason, detail: str = "") -> Ending:
        """The ending if the run ends now."""
        return Ending(
            reason=reason, update=self.update, best=self.best_figure, detail=detail, best_update=self.best_update,
            skipped=self.skipped, first_skipped=self.first_skipped, out_of_bounds=self.watch.told(self.update),
        )  # fmt: skip

    def skip(self, error: NotFiniteError) -> dict[str, float]:
        """Count an update that was skipped, tell of the first, and end the run after too many in a row; its metrics."""
        self.skipped, self.skipped_in_row = self.skipped + 1, self.skipped_in_row + 1
        if self.skipped == 1:
            self.first_skipped = f"{error} in update {self.update}"
            tell(f"{self.name}: {self.first_skipped}; such updates are skipped and counted")
        if self.skipped_in_row == self.config.most_skipped:
            self.end("not finite", f"{error} in update {self.update}, the last of {self.skipped_in_row} in a row")
        return {"skipped": 1.0}

    @property
    def best_figure(self) -> float | None:
        """The best value of the monitored figure."""
        return None if math.isinf(self.stopping.best) else self.sign * self.stopping.best

    @property
    def sign(self) -> float:
        """-1 if the monitored figure is an error, which should fall, else 1."""
        return -1.0 if self.config.monitor in LOWER_IS_BETTER else 1.0

    def validate(self) -> dict[str, float]:
        """Validate, keep the weights if they are the best so far, and decide whether the run ends."""
        with self.averaged_weights():
            try:
                figures = dict(self.learner.validate())
            except NotFiniteError as error:
                if not self.update:  # no weights but these could be kept
                    raise
                self.end("not finite", f"{error} in the validation after update {self.update}")
                return {}
            figure = figures.get(self.config.monitor)
            signed = None if figure is None or math.isnan(figure) else self.sign * figure
            if self.stopping.improved(signed):
                self.best_update = self.update
                self.best = copied(self.learner.trainable.state_dict())
        if self.start_figure is None:
            self.start_figure = signed
        self._decide(signed)
        return figures

    def _decide(self, signed: float | None) -> None:
        margin, start = self.config.collapse_margin, self.start_figure
        if margin is not None and signed is not None and start is not None and signed < start - margin:
            self.end(
                "collapse", f"{self.config.monitor} x 100 fell from {100 * abs(start):.2f} to {100 * abs(signed):.2f}"
            )
        elif self.update and self.signal == 0:
            self.end("nothing to learn")
        elif self.stopping.exhausted:
            self.end("patience")
        elif self.update == self.config.num_updates:
            self.end("budget")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """A context in which the learner has the running mean of its weights, if there is one."""
        average, trainable = self.descent.average, self.learner.trainable
        if average is None:
            yield
            return
        own = copied(trainable.state_dict())
        trainable.load_state_dict(average.module.state_dict())
        try:
            yield
        finally:
            trainable.load_state_dict(own)

    def finish(self) -> None:
        """Give the learner its best weights; its last weights stay if no validation gave a figure."""
        if self.best is not None:
            self.learner.trainable.load_state_dict(self.best)
        elif self.descent.average is not None:
            self.learner.trainable.load_state_dict(self.descent.average.module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        return {
            "config": {name: str(value) for name, value in asdict(self.config).items()},
            "update": self.update,
            "begun": self.begun,
            "signal": self.signal,
            "start_figure": self.start_figure,
            "ending": None if self.ending is None else asdict(self.ending),
            "best": self.best,
            "best_update": self.best_update,
            "skipped": [self.skipped, self.skipped_in_row, self.first_skipped],
            "beyond": self.watch.beyond,
            "trainable": self.learner.trainable.state_dict(),
            "learner": self.learner.state_dict(),
            "descent": self.descent.state_dict(),
            "stopping": self.stopping.state_dict(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state, torch's global generators included. Raises an error for one that is not of this run."""
        if not 0 <= state["update"] <= self.config.num_updates:
            raise ValueError(f"update {state['update']} of {self.config.num_updates}")
        self.update, self.begun, self.signal = state["update"], state["begun"], state["signal"]
        self.start_figure = state["start_figure"]
        self.ending = None if state["ending"] is None else Ending.of(state["ending"])
        self.best, self.best_update = state["best"], state["best_update"]
        if self.best is not None:  # it is loaded at the end, when an error would lose the run
            self.learner.trainable.load_state_dict(self.best)
        self.skipped, self.skipped_in_row, self.first_skipped = state["skipped"]
        self.watch.beyond = state["beyond"]
        self.learner.trainable.load_state_dict(state["trainable"])
        self.learner.load_state_dict(state["learner"])
        self.descent.load_state_dict(state["descent"])
        self.stopping.load_state_dict(state["stopping"])
        torch.set_rng_state(state["random"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


def fit(learner: Learner, config: LoopConfig, *, name: str, callbacks: Sequence[Callback] = ()) -> Ending:
    """Train the learner, leave it at its best validation weights, and return how the run ended.

    On a signal (Ctrl-C, SIGTERM), the update is finished, the callbacks save, and then `Interrupted` is raised.
    """
    run = FitRun(learner, config, name)
    for callback in callbacks:
        callback.on_start(run)
    if config.patience is not None and not config.patience_can_end and not run.begun:
        tell(
            f"{name}: a patience of {config.patience} cannot end this run, which has {config.num_validations} validations; "
            "more of them, or a smaller patience, can"
        )
    with deferred() as pending:
        try:
            _update_all(run, callbacks, pending)
        except BaseException:
            for callback in callbacks:
                callback.on_error(run)
            raise
        ending = run.ending or run.ended("interrupted")
        for callback in callbacks:
            callback.on_end(run, ending)
    if pending.number is not None and ending.reason == "interrupted":
        raise Interrupted(pending.number)
    run.finish()
    pending.raise_if_any()
    return ending


def _update_all(run: FitRun, callbacks: Sequence[Callback], pending: Pending) -> None:
    """Make the updates that are left, until the run ends or a signal comes."""
    if not run.begun and run.config.validate_start:
        run.begun = True
        _tell(run, callbacks, {}, validated=True)
    run.begun = True
    while _goes_on(run, pending):
        run.update += 1
        try:
            metrics = run.learner.update(run.update, run.descent)
            run.skipped_in_row = 0
            run.watch.see(run.name, run.update, metrics)
        except NotFiniteError as error:
            metrics = run.skip(error)
            if run.ending:
                return
        run.descent.end_update()
        if run.update % RETURNED_EVERY == 0:
            return_freed()
        run.signal += abs(metrics.get("signal", metrics.get("grad_norm", 1.0)))
        _tell(run, callbacks, metrics, validated=run.config.is_due(run.update))


def _goes_on(run: FitRun, pending: Pending) -> bool:
    """Whether there is another update, which all processes that train together decide alike, as the main one does."""
    run.ending, number = parallel.of_main(lambda: (run.ending, pending.number))
    if number is not None:  # a signal that has come meanwhile stays pending, and counts after the next update
        pending.number = number
    return run.ending is None and number is None


def _tell(run: FitRun, callbacks: Sequence[Callback], metrics: dict[str, float], *, validated: bool) -> None:
    """Validate if it is due, and call the callbacks."""
    if validated:
        figures = run.validate()
        metrics = {**metrics, **{f"val_{name}": value for name, value in figures.items()}}
    for callback in callbacks:
        callback.on_step(run, metrics)
    if validated:
        for callback in callbacks:
            callback.on_validation(run, figures)
    for callback in callbacks:
        callback.on_complete(run, validated=validated)
