"""Settings that cannot be are refused in one sentence: what must hold, what came, and what is usual."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from unchecked import unchecked

from rl_det.errors import PathError, UserError
from rl_det.settings import at_least, check_entries, check_settings, positive, within


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Example:
    rate: float
    count: int = 3
    decay: float | None = None
    norm: float = 1.0
    kind: Literal["small", "large"] = "small"
    other: Literal["one"] | None = None
    weights: tuple[float, float] = (1.0, 4.0)
    names: tuple[str, ...] = ()
    on: bool = False
    inner: Inner = field(default_factory=Inner)
    found: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        check_settings(
            self,
            rate=positive(usual="2e-3"),
            count=at_least(1),
            decay=within("[0, 1)"),
            norm=positive(infinite=True),
            weights=at_least(0),
        )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rate": -1.0}, "rate must be positive; got -1.0; 2e-3 is usual"),
        ({"rate": math.nan}, "rate must be a number; got nan; 2e-3 is usual"),
        ({"rate": math.inf}, "rate must be finite; got inf; 2e-3 is usual"),
        ({"rate": "fast"}, "rate must be a number; got 'fast'; 2e-3 is usual"),
        ({"rate": None}, "rate must be a number; got None; 2e-3 is usual"),
        ({"count": 0}, "count must be at least 1; got 0; 3 is usual"),
        ({"count": 2.0}, "count must be a whole number; got 2.0; 3 is usual"),
        ({"count": True}, "count must be a whole number; got True; 3 is usual"),
        ({"decay": 1}, "decay must lie in [0, 1); got 1"),
        ({"decay": -0.1}, "decay must lie in [0, 1); got -0.1"),
        ({"decay": "x"}, "decay must be a number or None; got 'x'"),
        ({"norm": 0.0}, "norm must be positive; got 0.0; 1.0 is usual"),
        ({"kind": "nonsense"}, "kind must be one of small, large; got 'nonsense'; small is usual"),
        ({"other": "two"}, "other must be one of one or None; got 'two'"),
        ({"weights": (1.0, -4.0)}, "weights must not be negative; got (1.0, -4.0); (1.0, 4.0) is usual"),
        ({"weights": (1.0,)}, "weights must be a tuple of 2 numbers; got (1.0,); (1.0, 4.0) is usual"),
        ({"weights": [1.0, 4.0]}, "weights must be a tuple of 2 numbers; got [1.0, 4.0]; (1.0, 4.0) is usual"),
        ({"weights": (1.0, math.nan)}, "weights must be a tuple of 2 numbers; got (1.0, nan); (1.0, 4.0) is usual"),
        ({"names": (3,)}, "names must be a tuple of strings; got (3,)"),
        ({"on": "no"}, "on must be True or False; got 'no'; False is usual"),
        ({"inner": 0.5}, "inner must be of class Inner; got 0.5"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(given: dict[str, Any], told: str) -> None:
    with unchecked(), pytest.raises(UserError) as refused:
        Example(**{"rate": 1.0, **given})
    assert str(refused.value) == told


@pytest.mark.parametrize(
    "given",
    [{}, {"rate": 1}, {"count": np.int64(2)}, {"rate": np.float32(0.5)}, {"decay": 0}, {"norm": math.inf},
     {"names": ("a", "b")}, {"other": "one"}, {"on": True}],
)  # fmt: skip
def test_what_can_be_is_taken(given: dict[str, Any]) -> None:
    with unchecked():
        Example(**{"rate": 1.0, **given})


def test_a_rule_for_a_field_that_there_is_not_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="Inner has no shares"):
        check_settings(Inner(), shares=positive())


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({}, "inner.share must be there; it is missing"),
        ({"share": 0.5, "shares": 1}, "inner.shares must not be there; this version knows no such entry"),
        ([], r"inner must be a JSON object; got \[\]"),
    ],
)
def test_a_dataclass_of_a_file_has_all_its_entries_and_no_other(entries: Any, told: str) -> None:
    check_entries(Inner, {"share": 0.5}, within="inner.")
    with pytest.raises(UserError, match=f"^{told}$"):
        check_entries(Inner, entries, within="inner.")


def test_a_users_error_is_a_value_error_and_one_about_a_path_an_os_error_too() -> None:
    assert issubclass(UserError, ValueError)
    assert issubclass(PathError, UserError)
    assert issubclass(PathError, OSError)
    assert str(PathError("here: there is no room")) == "here: there is no room"
