"""What every reward can do: a step's detections before and after -> what it earns, and each candidate's part in it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from rl_det.rewards.edits import Edits, Step

Value = Callable[[Edits], Float64[np.ndarray, " R"]]
"""What the detections of each edit are worth by themselves."""


class Reward(ABC):
    """A step of R episodes -> its reward [R], and credit [R, N], or [R, N, F] where an action has F factors."""

    @abstractmethod
    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        """What a step from `before` to `after` earns; `ended` says whether the episodes end with it."""

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        """What a step earns in which candidates act, and what it would earn if each one's action had been the only one.

        The latter less what doing nothing earns: the exact counterfactual. It does not depend on what the others do, so
        credit times the score function is an unbiased gradient of it.
        """
        nothing = self(step.before, step.before, ended=ended)
        credits = []
        for factor in step.factors:
            alone = step.alone(factor)
            earned = self(step.before[alone.rows], alone.edits, ended=ended)
            credits.append(alone.spread(earned - nothing[alone.rows]))
        return self(step.before, step.after, ended=ended), _joined(credits)


@dataclass(frozen=True)
class Worth(Reward):
    """A value of an image's own detections, paid when the episode ends, or at each step by how much it has changed.

    Either way waiting earns nothing, and what an episode earns does not depend on the way that it took: the changes add up
    to the last value less the first.
    """

    value: Value
    paid: Literal["at_the_end", "by_change"] = "at_the_end"

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        if self.paid == "by_change":
            return self.value(after) - self.value(before)
        return self.value(after) if ended else np.zeros(len(after))


def _joined(credits: list[Float64[np.ndarray, "R N"]]) -> Float64[np.ndarray, "R N *F"]:
    """[R, N] of one factor, [R, N, F] of several."""
    return credits[0] if len(credits) == 1 else np.stack(credits, -1)
