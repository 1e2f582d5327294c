"""The base class of rewards, and rewards that are a value of an image's own detections."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from rl_det.errors import UserError
from rl_det.rewards.edits import Edits, Factor, Step
from rl_det.rewards.tallied import Tallied
from rl_det.settings import check_settings, takes

Value = Callable[[Edits], Float64[np.ndarray, " R"]]
"""(edits) -> the value of each edit's detections."""


def check_value(name: str, value: object) -> None:
    """Raise UserError, naming the argument, for what is no value of detections."""
    if isinstance(value, type) or not callable(value):
        got = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise UserError(f"{name} must be a value of detections, such as rl_det.rewards.f1 or Cost(); got {got}")
    if not takes(value, 1):
        told = "; a function (detections, target) and a Reward are rewards as they are: reward=..."
        raise UserError(f"{name} must take edits alone; got {value!r}{told}")


class Reward(ABC):
    """The reward [R] of a step of R episodes, and its credit [R, N], or [R, N, F] if an action has F factors."""

    @abstractmethod
    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        """The reward of a step from `before` to `after`; `ended` says whether the episodes end with it."""

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        """Return the step's reward [R] and each candidate's credit.

        The credit is the reward if this candidate alone acts and all others stay at the baseline, minus the reward of
        staying at the baseline: the exact counterfactual. In an episode of several steps, the candidate alone has acted
        in the steps before, too. So its credits of later steps are what its own actions bring, whatever the others do,
        and credit times the score function is an unbiased gradient of what it earns alone.
        """
        nothing = self(step.baseline, step.baseline, ended=ended)
        check_shape(nothing, self, len(step))
        credits = []
        for factor in step.factors:
            alone = step.alone(factor)
            earned = self(alone.before, alone.after, ended=ended)
            credits.append(alone.spread(earned - nothing[alone.rows]))
        return self(step.before, step.after, ended=ended), joined(credits)


@dataclass(frozen=True)
class Worth(Reward):
    """A value of an image's own detections, paid at the end of the episode, or at each step as its change.

    Either way, waiting earns nothing, and an episode's total does not depend on the path: the changes add up to the
    last value minus the first.
    """

    value: Value
    paid: Literal["at_the_end", "by_change"] = "at_the_end"

    def __post_init__(self) -> None:
        check_value("value", self.value)
        check_settings(self)

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        if self.paid == "by_change":
            return self.value(after) - self.value(before)
        return self.value(after) if ended else np.zeros(len(after))

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        """The reward and the credit; if the value is `Tallied`, without recomputing the image for each candidate."""
        if not isinstance(self.value, Tallied):
            return super().credited(step, ended=ended)
        earned = self(step.before, step.after, ended=ended)
        return earned, joined([self._tallied_credit(self.value, step, factor, ended) for factor in step.factors])

    def _tallied_credit(self, value: Tallied, step: Step, factor: Factor, ended: bool) -> Float64[np.ndarray, "R N"]:
        """Each candidate's credit for one factor of its action."""
        if self.paid == "at_the_end" and not ended:
            return np.zeros(step.scores.shape)
        alone = step.tallied_alone(factor, value.kind)
        images, pool = step.images[alone.rows], step.scene.counter(value.kind).tallies
        after, before = (
            value.of_images(tallies, images, pool, step.scene.num_classes)
            for tallies in (alone.after, alone.before if self.paid == "by_change" else alone.standing)
        )
        return alone.spread(after - before)


def joined(credits: list[Float64[np.ndarray, "R N"]]) -> Float64[np.ndarray, "R N *F"]:
    """The credits as [R, N] for one factor, or [R, N, F] for several."""
    return credits[0] if len(credits) == 1 else np.stack(credits, -1)


def check_shape(earned: Any, reward: Reward, count: int) -> None:
    """Raise UserError if a reward did not give an array of one number for each of so many episodes."""
    if not isinstance(earned, np.ndarray) or earned.shape != (count,):
        shape = f"an array of the shape {earned.shape}" if isinstance(earned, np.ndarray) else type(earned).__name__
        raise UserError(
            f"a reward must be an array of one number for each of the {count} episodes; {reward!r} gave {shape}"
        )
