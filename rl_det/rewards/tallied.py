"""Values that are formulas of an image's tallies, or of its pool's: their credit takes no whole evaluation a candidate."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from rl_det.errors import UserError
from rl_det.rewards.edits import Edits
from rl_det.rewards.tallies import Displayed, Kind, Ranked
from rl_det.settings import check_settings


class Tallied(ABC):
    """A value that is a formula of tallies; `Worth` then gives its credit at about the price of `pool_ap`'s.

    Derive from this class, or decorate the formula with `of_displayed` or `of_ranked`.
    """

    kind: Kind = "displayed"
    """Which tallies the formula takes."""
    pooled: bool = False
    """Whether they are those of the whole pool with the image changed, or the image's own."""

    @abstractmethod
    def of(self, tallies: Displayed | Ranked) -> Float64[np.ndarray, "*R"]:
        """The formula."""

    def __call__(self, edits: Edits) -> Float64[np.ndarray, " R"]:
        """The value of each edit."""
        pool = edits.pool.tallies(self.kind) if self.pooled else None
        return self.of_images(edits.tallies(self.kind), edits.images, pool, edits.pool.num_classes)

    def of_images(
        self,
        tallies: Float64[np.ndarray, "R K"],
        images: Int64[np.ndarray, " R"],
        pool: Float64[np.ndarray, "P K"] | None,
        num_classes: int,
    ) -> Float64[np.ndarray, " R"]:
        """The value if image images[r] had tallies[r]; `pool` has those that all images have, where the value is pooled."""
        count = 1
        if self.pooled and pool is not None:
            tallies, count = pool.sum(0) + (tallies - pool[images]), len(pool)
        record = Displayed if self.kind == "displayed" else Ranked
        return self.checked(record(count, num_classes, *tallies.T))

    def checked(self, tallies: Displayed | Ranked) -> Float64[np.ndarray, "*R"]:
        """The formula's values. Raises UserError, which names the formula, unless it returns a number for each tally."""
        returned: Any = self.of(tallies)
        shape, is_array = tallies[2].shape, isinstance(returned, np.ndarray)
        if not (is_array and returned.shape == shape and returned.dtype.kind in "fiub"):
            told = f"one of the shape {returned.shape}, of {returned.dtype}" if is_array else repr(returned)[:80]
            raise UserError(
                f"a formula of tallies must return numbers in an array of the tallies' shape, {shape}; {self!r} returned {told}"
            )
        values: Float64[np.ndarray, "*R"] = returned.astype(np.float64, copy=False)
        return values


class Formula(Tallied):
    """A plain function of tallies as a value; it keeps the function's name and documentation."""

    def __init__(self, function: Callable[..., Float64[np.ndarray, "*R"]], kind: Kind) -> None:
        self.function, self.kind = function, kind
        update_wrapper(self, function)

    def of(self, tallies: Displayed | Ranked) -> Float64[np.ndarray, "*R"]:
        return self.function(tallies)

    def __repr__(self) -> str:
        return str(vars(self).get("__qualname__", repr(self.function)))

    def __reduce__(self) -> str:
        return str(vars(self)["__qualname__"])  # it is found by its name, as functions are


def of_displayed(function: Callable[[Displayed], Float64[np.ndarray, "*R"]]) -> Formula:
    """A decorator: a formula of `Displayed` tallies becomes a value."""
    return Formula(function, "displayed")


def of_ranked(function: Callable[[Ranked], Float64[np.ndarray, "*R"]]) -> Formula:
    """A decorator: a formula of `Ranked` tallies becomes a value."""
    return Formula(function, "ranked")


@dataclass(frozen=True)
class OverThePool(Tallied):
    """A formula of what is displayed, taken of the whole pool with the image changed: a data set's metric, exactly.

    A pool is the environment's images (`pool_images`), so it is what the data set's metric would be on these.
    """

    value: Tallied
    pooled = True

    def __post_init__(self) -> None:
        check_settings(self)
        if self.value.kind != "displayed" or self.value.pooled:
            raise UserError(
                f"value must be a formula of what one image displays, such as f1; got {self.value!r}; pool_ap is the pool's AP"
            )

    def of(self, tallies: Displayed | Ranked) -> Float64[np.ndarray, "*R"]:
        return self.value.of(tallies)
