"""A plain function on numpy arrays -> the same, compiled by numba on first use and cached on disk, beside its source.

Where that cannot be written to, numba takes the user's cache folder; `NUMBA_CACHE_DIR` names another. For developers: numba
compiles anew what was edited, but not its callers in other files. So delete `__pycache__` after such an edit; the tests do
not need it.

Compiled code allocates nothing: its results and its scratch memory ("room") come as arguments. So numba need not count
references to arrays, which is most of what there is to compile where a function takes many.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import event
from numba.extending import intrinsic, register_jitable

OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}  # the second: no counting of references

ABOUT = 18
"""Seconds of one core, for all that a first reset, step and evaluation compile (experiments/benchmarks/first_use.py)."""


class FirstUse(event.Listener):
    """Says once in a process that the engine is being compiled, which a user would take for a hang."""

    told = False

    def on_start(self, this: Any) -> None:
        """Something is compiled, and not found on disk."""
        dispatcher = this.data["dispatcher"]
        if not self.told and dispatcher.py_func.__module__.startswith("rl_det."):
            self.told = True
            from tqdm import tqdm  # only now, so that the engine imports in a blink

            folder = dispatcher.stats.cache_path
            text = (
                "rl_det: compiling what has not been used on this machine before of the AP engine, "
                f"all of it in about {ABOUT} s; kept in {folder}"
            )
            tqdm.write(text, file=sys.stderr)  # above a progress bar, if there is one

    def on_end(self, this: Any) -> None:
        """Nothing to say."""


event.register("numba:compile", FirstUse())  # type: ignore[no-untyped-call]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile for one core; `rl_det.ap.threads` shares rows out among several.

    A run-time type checker's wrapper, as the tests put around all functions, is taken off first.
    """
    return njit(cache=True, nogil=True, **OPTIONS)(inspect.unwrap(function))


def compilable(function: Callable[..., Any]) -> Any:
    """What compiled functions call: a part of each of them, and plain Python elsewhere."""
    return register_jitable(**OPTIONS)(inspect.unwrap(function))


def inlined(function: Callable[..., Any]) -> Any:
    """The same for what is called in one place, or is short: it becomes lines of its caller, which compiles faster still."""
    return njit(inline="always", **OPTIONS)(inspect.unwrap(function))


def _trailing_zeros(_: Any, bits: Any) -> Any:
    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


trailing_zeros: Any = intrinsic(_trailing_zeros)


@compilable
def lowest_bit(bits: Any) -> int:
    """The place of the lowest bit that is set; there must be one. One machine instruction."""
    places: int = trailing_zeros(np.uint64(bits))
    return places
