"""The settings of the training loop: length, rate, validations, and the rules that select the best weights and end a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from rl_det.errors import UserError
from rl_det.metrics.evaluation import check_monitor
from rl_det.settings import at_least, check_settings, positive, within
from rl_det.training.early_stopping import EarlyStopping
from rl_det.training.schedules import ScheduleName

PAID = "paid"
"""The validation figure of a learner whose reward is a metric: that metric. There is none without a reward."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The length and rate of training, and the rules that select the best weights."""

    num_updates: int
    """The number of updates; each makes one or several optimiser steps."""
    learning_rate: float
    """AdamW's peak rate, after a short linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    schedule: ScheduleName = "cosine"
    """cosine: from the peak down to 0; step: times a tenth after two thirds and after eight ninths of the updates."""
    max_grad_norm: float = 1.0
    """The maximum norm of the gradient; a larger gradient is scaled down."""
    mixed: bool = False
    """Mixed precision: float16 with a scaled loss on CUDA, bfloat16 on a CPU."""
    ema: float = 0.0
    """The decay of the weights' running mean, which is then validated and kept; 0: none."""
    validate_every: int | Fraction = 50
    """Updates between two validations; there is always one at the end."""
    validate_start: bool = True
    """Whether the start is validated too, so that training is kept only if it is better."""
    monitor: str = "AP"
    """The validation figure that selects the best weights: one of a report's, or the metric that the reward pays."""
    patience: int | None = None
    """The run ends after this many validations without progress; None: never."""
    min_delta: float = 0.0
    """The figure must beat the best by more than this to count as progress."""
    warm_up: int = 0
    """The number of first validations that do not count."""
    collapse_margin: float | None = None
    """The run ends if the figure falls this far below the start's; None: never."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """The largest healthy absolute value of a metric, by its name. The run goes on beyond it, and its ending tells of it."""
    most_skipped: int = 5
    """The run ends after this many updates in a row that were skipped, as a number was NaN or infinite."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            num_updates=at_least(1),
            learning_rate=positive(usual="2e-3"),
            weight_decay=at_least(0),
            max_grad_norm=positive(infinite=True),
            ema=within("[0, 1)", usual="0.999"),
            validate_every=positive(),
            collapse_margin=positive(usual="0.03", infinite=True),
            bounds=positive(infinite=True),
            most_skipped=at_least(1),
        )
        if self.monitor != PAID:
            check_monitor(self.monitor)
        self.stopping()  # refuses what it cannot use
        if self.warm_up >= self.num_validations:
            raise UserError(
                f"warm_up must leave a validation that counts, of {self.num_validations}; got {self.warm_up}; 0 is usual"
            )

    def stopping(self) -> EarlyStopping:
        """The early stopping that selects the best weights and ends the run."""
        return EarlyStopping(patience=self.patience, min_delta=self.min_delta, warm_up=self.warm_up)

    @property
    def num_validations(self) -> int:
        """The number of validations of a run to its end, the start's included."""
        every = max(1, self.validate_every)  # several in one update are one
        before_last, all_due = (self.num_updates - 1) // every, self.num_updates // every
        return int(self.validate_start) + all_due + int(all_due == before_last)

    @property
    def patience_can_end(self) -> bool:
        """Whether validations without progress could end the run; the first that counts is progress."""
        return self.patience is not None and self.warm_up + 1 + self.patience <= self.num_validations

    def is_due(self, update: int) -> bool:
        """Whether there is a validation after this update."""
        before, after = (number // self.validate_every for number in (update - 1, update))
        return update == self.num_updates or after > before
