"""A strategy's settings in JSON's types, by which a run knows whether it may go on: equal settings mean equal results.

What a library gives is known by its name. The user's own functions and classes are known by name and by a hash of what they
compute: their code, and the values, functions and classes that it uses, in their own module and in others of the user's. The
hash depends on Python's version. What has no contents that can be told, such as an open file, is known by its type alone.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cache, cached_property, partial, singledispatchmethod
from hashlib import sha256
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, uint8

from rl_det.strategies.strategy import Strategy

OWN = ("rl_det", "rl_det_envs")
INSTALLED = ("site-packages", "dist-packages")
"""Folders of what is installed."""
LONGEST = 10_000
"""The letters of a setting that a configuration shows."""
GENERATED = "<string>"
"""The file of code that `dataclasses` writes."""


def settings_of(strategy: Strategy) -> dict[str, Any]:
    """A strategy's settings in JSON's types; equal settings mean equal results."""
    telling = _Telling()
    plain = {name: _short(telling.of(value)) for name, value in vars(strategy).items()}
    return {"strategy": type(strategy).__name__, "name": strategy.name, **plain}


class _Telling:
    """Tells values in JSON's types, each object once: one that comes again, as in a circle, is told as the first time."""

    def __init__(self) -> None:
        self.known: dict[
            int, tuple[Any, Any]
        ] = {}  # by id: the object, so that its id stays its own, and what is told of it

    def of(self, value: Any) -> Any:
        if isinstance(value, bool | int | float | str | None):
            return value
        if id(value) not in self.known:
            self.known[id(value)] = value, "itself"
            self.known[id(value)] = value, self.told(value)
        return self.known[id(value)][1]

    @singledispatchmethod
    def told(self, value: Any) -> Any:
        """An object of another kind: what it wraps, its name if it is callable and has one, its fields, or its state."""
        kind = type(value)
        if hasattr(value, "__wrapped__"):  # a cached function, a formula of tallies
            own = {name: part for name, part in vars(value).items() if not name.startswith("__")}
            return {"type": self.of(kind), "wraps": self.of(value.__wrapped__), **self.of(own)}
        if callable(value) and hasattr(value, "__qualname__"):
            return _name(value)
        if _keeps_all_in_fields(value):
            return {"type": self.of(kind), **self.of(vars(value))}
        try:
            state = value.__reduce_ex__(4)
        except Exception:  # any object of the user's may say in its own way that it has no contents to tell
            return {"type": self.of(kind)}
        parts = [state] if isinstance(state, str) else [list(p) if isinstance(p, Iterator) else p for p in state]
        return {"type": self.of(kind), "sha256": _digest(self.of(parts))}

    @told.register(tuple | list)
    def _(self, value: Iterable[Any]) -> list[Any]:
        return [self.of(part) for part in value]

    @told.register(Mapping)
    def _(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(name): self.of(part) for name, part in value.items()}

    @told.register(AbstractSet)
    def _(self, value: AbstractSet[Any]) -> list[Any]:
        """In sorted order, as its own is another in each process."""
        return sorted((self.of(part) for part in value), key=json.dumps)

    @told.register
    def _(self, value: np.ndarray) -> dict[str, Any]:
        if value.dtype == object:
            return {"shape": list(value.shape), "of": self.of(value.tolist())}
        return {"shape": list(value.shape), "sha256": sha256(value.tobytes()).hexdigest()[:16]}

    @told.register
    def _(self, value: np.generic) -> list[Any]:
        return [str(value.dtype), value.item()]

    @told.register
    def _(self, value: Tensor) -> dict[str, Any]:
        numbers = value.detach().to_dense().cpu().contiguous().reshape(-1)
        return {"shape": list(value.shape), "sha256": sha256(numbers.view(uint8).numpy().tobytes()).hexdigest()[:16]}

    @told.register(partial)
    def _(self, value: partial[Any]) -> dict[str, Any]:
        return {"partial": self.of(value.func), "args": self.of(value.args), "keywords": self.of(value.keywords)}

    @told.register
    def _(self, value: MethodType) -> dict[str, Any]:
        return {"method": self.of(value.__func__), "of": self.of(value.__self__)}

    @told.register
    def _(self, value: ModuleType) -> str:
        return value.__name__

    @told.register
    def _(self, value: FunctionType) -> str:
        return _name(value) if _of_library(value.__module__) else f"{_name(value)} {_digest(self.meaning(value))}"

    @told.register
    def _(self, value: type) -> str:
        """A class of the user's by its functions and values, and by those of the classes above it."""
        if _of_library(value.__module__):
            return value.__name__
        parts = {name: self.member(part) for name, part in vars(value).items() if _is_meant(name, part)}
        return f"{_name(value)} {_digest([parts, self.of(value.__bases__)])}"

    def member(self, part: Any) -> Any:
        """What stands in a class's body, without what wraps a function there."""
        if isinstance(part, property):
            return self.of((part.fget, part.fset))
        if isinstance(part, staticmethod | classmethod):
            return self.of(part.__func__)
        return self.of(part.func if isinstance(part, cached_property) else part)

    def meaning(self, function: FunctionType) -> list[Any]:
        """What a plain function computes: its code, its defaults, and the values that it uses."""
        names, around = _names(function.__code__), function.__globals__
        used = {name: around[name] for name in sorted(names) if name in around}
        used |= dict(
            zip(function.__code__.co_freevars, (_held(cell) for cell in function.__closure__ or ()), strict=True)
        )
        of_modules = {
            f"{name}.{part}": getattr(module, part)
            for name, module in used.items()
            if isinstance(module, ModuleType) and not _of_library(module.__name__)
            for part in sorted(names & vars(module).keys())
        }
        return [_instructions(function.__code__), self.of((function.__defaults__, function.__kwdefaults__)),
                self.of(used | of_modules)]  # fmt: skip


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _short(told: Any) -> Any:
    """What is told of a setting; of a long one, as of a data set that a reward holds, the hash alone."""
    return told if len(json.dumps(told)) <= LONGEST else {"sha256": _digest(told)}


def _digest(told: Any) -> str:
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _of_library(module: str | None) -> bool:
    """Whether a module is Python's, rl_det's, or installed."""
    top = (module or "builtins").partition(".")[0]
    if top in sys.stdlib_module_names or top in OWN:
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return any(folder in file for folder in INSTALLED)


def _keeps_all_in_fields(value: Any) -> bool:
    """Whether `vars` has all of an object's state: it has no slots, and no way of its own to be pickled."""
    kind = type(value)
    own_way = any("__reduce__" in vars(each) or "__reduce_ex__" in vars(each) for each in kind.__mro__[:-1])
    return hasattr(value, "__dict__") and not own_way and not any(vars(each).get("__slots__") for each in kind.__mro__)


def _is_meant(name: str, part: Any) -> bool:
    """Whether an entry of a class's body was written by the user, and computes something."""
    if isinstance(part, FunctionType):
        return part.__code__.co_filename != GENERATED
    return not name.startswith(("__", "_abc_")) and not type(part).__name__.endswith("_descriptor")


def _held(cell: CellType) -> Any:
    """What a closure holds; None while it holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _names(code: CodeType) -> set[str]:
    """The names that a function, or a function in it, looks up."""
    inner = [_names(part) for part in code.co_consts if isinstance(part, CodeType)]
    return set(code.co_names).union(*inner)


def _instructions(code: CodeType) -> Any:
    """A function's instructions and constants, without its place in a file."""
    constants = [_instructions(part) if isinstance(part, CodeType) else _constant(part) for part in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames)]


def _constant(value: Any) -> str:
    """A constant as text; a set in sorted order, as its own is another in each process."""
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(_constant, value))})"
    return f"({', '.join(map(_constant, value))})" if isinstance(value, tuple) else repr(value)
