"""A plain function on numpy arrays -> the same, compiled by numba on first use and cached on disk."""

import inspect
from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Compile for one core. A run-time type checker's wrapper, as the tests put around all functions, is taken off first."""
    return njit(cache=True)(inspect.unwrap(function))


def compiled_in_parallel(function: Callable[..., Any]) -> Any:
    """The same for all cores: `numba.prange` shares a loop out among them."""
    return njit(cache=True, parallel=True)(inspect.unwrap(function))
