"""A plain function on numpy arrays -> the same, compiled by numba on first use and cached on disk, beside its source.

Where that cannot be written to, numba takes the user's cache folder; `NUMBA_CACHE_DIR` names another. For developers: numba
compiles anew what was edited, but not its callers in other files. So delete `__pycache__` after such an edit; the tests do
not need it.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


def compiled(function: Callable[..., Any]) -> Any:
    """Compile for one core. A run-time type checker's wrapper, as the tests put around all functions, is taken off first."""
    return njit(cache=True, error_model="numpy")(inspect.unwrap(function))


def compiled_in_parallel(function: Callable[..., Any]) -> Any:
    """The same for all cores: `numba.prange` shares a loop out among them."""
    return njit(cache=True, parallel=True, error_model="numpy")(inspect.unwrap(function))


def _trailing_zeros(_: Any, bits: Any) -> Any:
    def generate(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


trailing_zeros: Any = intrinsic(_trailing_zeros)


@compiled
def lowest_bit(bits: Any) -> int:
    """The place of the lowest bit that is set; there must be one. One machine instruction."""
    places: int = trailing_zeros(np.uint64(bits))
    return places
