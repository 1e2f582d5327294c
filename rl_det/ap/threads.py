"""A compiled function and a number of rows -> the rows shared out among the cores; in a forked process, one core takes all.

numba's own `prange` would do the same, but takes three times as long to compile, and its threads do not survive a fork: what a
forked process asks of them is never done (or, with GNU OpenMP, the process is ended).
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, wraps
from itertools import pairwise
from threading import local
from typing import Any, TypeVar

from numba import config

SLICES_PER_CORE = 4  # as some rows take longer than others


class Crew:
    """The threads that work for this process: the one that asks, and `size - 1` helpers, who are hired when first needed."""

    def __init__(self, size: int) -> None:
        self.size = size

    @cached_property
    def helpers(self) -> ThreadPoolExecutor:
        """All but the thread that asks."""
        return ThreadPoolExecutor(self.size - 1, thread_name_prefix="rl_det")


crew = Crew(vars(config)["NUMBA_NUM_THREADS"])


Made = TypeVar("Made")


def kept(make: Callable[..., Made]) -> Callable[..., Made]:
    """Scratch memory of some sizes; each thread keeps what it made last, and uses it again where the sizes are the same."""
    own = local()

    @wraps(make)
    def room(*sizes: int) -> Made:
        if getattr(own, "sizes", None) != sizes:
            own.sizes, own.room = sizes, make(*sizes)
        result: Made = own.room
        return result

    return room


def share_out(function: Callable[..., None], num_rows: int, room: Callable[[], Any], *arguments: Any) -> None:
    """Call function(first, end, room, *arguments) for slices that cover all rows; it writes only to what is theirs.

    `room()` is scratch memory, which each thread has to itself and finds as it left it.
    """
    num_slices = min(num_rows, SLICES_PER_CORE * crew.size)
    if crew.size == 1 or num_slices < 2:
        function(0, num_rows, room(), *arguments)
        return
    slices = iter([*pairwise(num_rows * part // num_slices for part in range(num_slices + 1))])

    def work() -> None:
        own = room()
        for first, end in slices:  # whoever is free takes the next
            function(first, end, own, *arguments)

    helping = [crew.helpers.submit(work) for _ in range(min(num_slices, crew.size) - 1)]
    work()
    for helper in helping:
        helper.result()


def _work_alone() -> None:
    """Do without threads: a forked process inherits neither ours nor torch's, and would wait for them for ever."""
    crew.size = 1
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_work_alone)
