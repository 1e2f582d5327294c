"""Refuse impossible settings where they are made: `check_settings`, and the rules that its callers give for each field."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rl_det.errors import UserError

IN_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    type(None): "None",
    Path: "a path",
}
MANY_IN_WORDS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "strings"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a number must be: the words after "must", and the test. `usual` is told if the field has no default."""

    words: str
    holds: Callable[[float], bool]
    usual: str | None = None
    infinite: bool = False
    """Whether infinity is allowed too."""


def at_least(low: int | float, *, usual: str | None = None, infinite: bool = False) -> Rule:
    """The rule that a number must be `low` or more."""
    words = "not be negative" if low == 0 else f"be at least {low}"
    return Rule(words=words, holds=lambda value: value >= low, usual=usual, infinite=infinite)


def positive(*, usual: str | None = None, infinite: bool = False) -> Rule:
    """The rule that a number must be above 0."""
    return Rule(words="be positive", holds=lambda value: value > 0, usual=usual, infinite=infinite)


def within(interval: str, *, usual: str | None = None) -> Rule:
    """The rule that a number must lie in an interval, written as "[0, 1)": a round bracket leaves out the bound."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    closed_below, closed_above = interval[0] == "[", interval[-1] == "]"
    return Rule(
        words=f"lie in {interval}",
        holds=lambda value: low <= value <= high and (closed_below or value > low) and (closed_above or value < high),
        usual=usual,
    )


SEEDS = Rule(words="not be negative, and less than 2**32", holds=lambda value: 0 <= value < 2**32, usual="0")
"""The rule of a seed: what all generators of random numbers take."""


def check_settings(settings: Any, **rules: Rule) -> None:
    """Refuse a dataclass with a value that does not fit its field's type, or its rule; call it in `__post_init__`.

    The types are checked of numbers, strings, names (`Literal`), tuples and mappings of them, and other classes. A number
    must be finite, unless its rule allows infinity. A rule holds for each number of a tuple or mapping, and not for None.
    Raises `UserError`, which says what must hold, what came, and what is usual: the field's default, or the rule's `usual`.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        if not field.init:
            continue
        value, rule = getattr(settings, field.name), rules.pop(field.name, None)
        if wrong := _wrong(value, hints[field.name], rule):
            usual = rule.usual if rule and rule.usual else field.default
            ending = "" if usual in (None, (), dataclasses.MISSING) else f"; {usual} is usual"
            raise UserError(f"{field.name} must {wrong}; got {value!r}{ending}")
    assert not rules, f"{type(settings).__name__} has no {', '.join(rules)}"


def check_entries(kind: type, entries: Any, *, within: str = "") -> None:
    """Refuse what a file says of a dataclass unless it has one entry for each field: no default stands in for a lost one.

    Raises `UserError`, which names the entry that is missing or unknown; `within` is what stands before its name ("votes.").
    """
    if not isinstance(entries, Mapping):
        raise UserError(f"{within.rstrip('.') or 'entries'} must be a JSON object; got {entries!r}")
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    for name in (*known, *entries):
        if name not in entries or name not in known:
            must = "be there; it is missing" if name in known else "not be there; this version knows no such entry"
            raise UserError(f"{within}{name} must {must}")


def takes(function: Callable[..., object], count: int) -> bool:
    """Whether a function can be called with so many arguments; True where Python cannot tell."""
    try:
        signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def check_argument(name: str, value: Any, hint: Any, rule: Rule | None = None, *, usual: object = None) -> None:
    """Refuse an argument of a function that does not fit its type, or its rule, as `check_settings` refuses a field.

    Raises `UserError`, which says what must hold, what came, and what is usual.
    """
    if wrong := _wrong(value, hint, rule):
        ending = "" if usual is None else f"; {usual} is usual"
        raise UserError(f"{name} must {wrong}; got {value!r}{ending}")


def _wrong(value: Any, hint: Any, rule: Rule | None) -> str | None:
    """The words after "must" that do not hold; None if all do."""
    if not fits(value, hint):
        return f"be {described(hint)}"
    parts = value if isinstance(value, tuple) else value.values() if isinstance(value, Mapping) else (value,)
    numbers = [part for part in parts if _is_number(part)]
    if not all(_is_finite(number) or (rule and rule.infinite) for number in numbers):
        return "be finite"
    return rule.words if rule and not all(rule.holds(number) for number in numbers) else None


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field. NaN is not a number; what cannot be checked fits."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if kind is tuple:
        if not isinstance(value, tuple):
            return False
        parts = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(parts) and all(fits(*pair) for pair in zip(value, parts, strict=True))
    if kind is Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, parts[0]) and fits(own, parts[1]) for key, own in value.items()
        )
    if hint in (int, float):
        return _is_number(value) and (isinstance(value, Integral) or (hint is float and not math.isnan(value)))
    if hint is Any or not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return True
    return isinstance(value, hint)


def described(hint: Any) -> str:
    """The type of a field, in words."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if kind in (Union, types.UnionType):
        return " or ".join(described(part) for part in parts)
    if kind is tuple:
        count = "" if parts[-1] is ... else f"{len(parts)} "
        return f"a tuple of {count}{MANY_IN_WORDS.get(parts[0]) or 'values'}"
    if kind is Mapping:
        return f"a mapping to {MANY_IN_WORDS.get(parts[1]) or 'values'}"
    return IN_WORDS.get(hint) or f"of class {getattr(hint, '__name__', hint)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_finite(number: Real) -> bool:
    """Whether a number is one; a whole number beyond all floats is none that anything could be computed with."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False
