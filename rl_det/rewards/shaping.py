"""Shaping of rewards: some that keeps the best policy, and some that does not."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from rl_det.errors import UserError
from rl_det.rewards.edits import Edits, Step
from rl_det.rewards.image_values import best_iou, true_over_displayed
from rl_det.rewards.reward import Reward, Value, check_value
from rl_det.settings import check_settings, within


@dataclass(frozen=True)
class Sum(Reward):
    """The sum of several rewards, and of their credits."""

    parts: tuple[Reward, ...]

    def __post_init__(self) -> None:
        if not (isinstance(self.parts, tuple) and self.parts and all(isinstance(part, Reward) for part in self.parts)):
            raise UserError(f"parts must be a tuple of rewards, such as (PoolAp(), StepCost(0.01)); got {self.parts!r}")

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        earned: Float64[np.ndarray, " R"] = np.sum([part(before, after, ended=ended) for part in self.parts], 0)
        return earned

    def credited(self, step: Step, *, ended: bool) -> tuple[Float64[np.ndarray, " R"], Float64[np.ndarray, "R N *F"]]:
        earned, credits = zip(*[part.credited(step, ended=ended) for part in self.parts], strict=True)
        return np.sum(earned, 0), np.sum(credits, 0)


@dataclass(frozen=True, kw_only=True)
class PotentialShaping(Reward):
    """gamma * potential(after) - potential(before), with potential 0 at the episode's end (Ng, Harada, Russell 1999).

    KEEPS THE OPTIMUM: over an episode, discounted by the same gamma, it adds up to minus the potential of the start,
    which no action changes. `gamma` must be that of the return. In an episode of one step it is a constant.
    """

    potential: Value = best_iou
    gamma: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_value("potential", self.potential)
        check_settings(self, gamma=within("(0, 1]"))

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        later = 0.0 if ended else self.gamma * self.potential(after)
        return self.weight * (later - self.potential(before))


@dataclass(frozen=True, kw_only=True)
class StepCost(Reward):
    """A price for each step, whatever the action is.

    Where all episodes have the same number of steps, as in these environments, it is a constant and keeps the optimum; where an
    action can end the episode, it changes it.
    """

    price: float = 0.01

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        return np.full(len(after), -self.price)


@dataclass(frozen=True, kw_only=True)
class LengthFactor:
    """A value times min(1, true boxes / displayed detections), as VLM-R1's "odLength"; a value like another, for `Worth`.

    CHANGES THE OPTIMUM: AP charges nothing for detections behind the last true positive, this does; and it pays to display
    one detection too few rather than one too many.
    """

    value: Value

    def __post_init__(self) -> None:
        check_value("value", self.value)

    def __call__(self, edits: Edits) -> Float64[np.ndarray, " R"]:
        worth: Float64[np.ndarray, " R"] = self.value(edits) * true_over_displayed(edits)
        return worth


@dataclass(frozen=True, kw_only=True)
class SignOfIouChange(Reward):
    """+1 if the best IoUs rise, -1 if they fall (Caicedo and Lazebnik 2015): KEPT AS THE WARNING EXAMPLE.

    CHANGES THE OPTIMUM, AND IS HACKABLE: a slow rise and a sudden fall add up to more than 0, so walking in a circle
    pays. Three small steps earn more than one large step that ends nearer.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, before: Edits, after: Edits, *, ended: bool) -> Float64[np.ndarray, " R"]:
        signs: Float64[np.ndarray, " R"] = self.weight * np.sign(best_iou(after) - best_iou(before))
        return signs
