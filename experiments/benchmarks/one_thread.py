"""A program -> the same program, started again on one thread, with an allocator that keeps its memory."""

import os
import sys

ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA", "RAYON", "VERNIER")},
    # Large results (precision at every recall point of every category) are freed and allocated in each call; given back to
    # the system and faulted in again, they cost some evaluators more time than their own work.
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
}


def insist_on_one_thread() -> None:
    """Call it first: libraries read these variables while they are imported, and the C library before the program runs."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ENVIRONMENT})
