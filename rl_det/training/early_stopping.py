"""Early stopping: whether a validation metric is the best so far, and whether to wait for a better one."""

import math
from dataclasses import dataclass, field

from rl_det.settings import at_least, check_settings


@dataclass(kw_only=True)
class EarlyStopping:
    """Patience with a metric that should rise.

    A value counts as progress if it beats the best by more than `min_delta`; with ties, the earlier one stays best. A
    missing (None) or NaN value is no progress. It says nothing about the model, so it does not use up patience either.
    The first `warm_up` values do not count at all: they are neither progress nor use up patience.
    """

    patience: int | None
    min_delta: float = 0.0
    warm_up: int = 0
    best: float = field(default=-math.inf, init=False)
    waited: int = field(default=0, init=False)
    told: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_settings(self, patience=at_least(1, usual="5"), min_delta=at_least(0), warm_up=at_least(0))

    def improved(self, metric: float | None) -> bool:
        """Record one value; return True if it is the best so far, so that the caller keeps a checkpoint."""
        if metric is None or math.isnan(metric):
            return False
        self.told += 1
        if self.told <= self.warm_up:
            return False
        if metric > self.best + self.min_delta:
            self.best, self.waited = metric, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether `patience` values in a row brought no progress; never without a patience."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, float]:
        """The state so far, for a training that may be stopped and resumed."""
        return {"best": self.best, "waited": self.waited, "told": self.told}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore a saved state."""
        self.best, self.waited, self.told = state["best"], int(state["waited"]), int(state["told"])
