"""Return freed memory, and the pages of mapped files, to the operating system; and bound a cache that torch fills."""

import contextlib
import ctypes
import mmap
import os
import weakref

import numpy as np

MOST_READ = 2**29
"""The bytes that may be read from mapped files before their pages are returned."""
PRIMITIVES, MOST_PRIMITIVES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 128
"""oneDNN's environment variable for the number of kernels that it keeps, and that number."""
_maps: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()
_read = 0


def keep_few_kernels() -> None:
    """Make oneDNN, with which torch computes on a CPU, keep few of the kernels that it makes; the user's own number stays.

    It makes one for each shape that it meets, and keeps 1,024. A policy in which proposals vote brings new shapes in
    every update, so that memory would grow by a tenth of a MiB each time, for hundreds of updates. No number changes.
    It works only before oneDNN's first use in a process.
    """
    os.environ.setdefault(PRIMITIVES, str(MOST_PRIMITIVES))


def give_back() -> None:
    """Return freed memory, and the pages of files that `returns_pages` knows.

    Without this call, encoding 4,000 images, or a validation from time to time, would hold a gigabyte of unused memory.
    """
    return_freed()
    _return_pages()


def return_freed() -> None:
    """Make the C library return freed memory, if it is glibc: some milliseconds.

    Small blocks that stay, between large ones that are freed, leave holes into which the next large block does not
    quite fit; the more updates, the more holes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # on Windows, no library has the name None
        ctypes.CDLL(None).malloc_trim(0)


def returns_pages(array: np.memmap) -> np.memmap:
    """The array of a mapped file, whose pages leave this process's memory from time to time, and are read again when used.

    Else a process that goes through a file of many gigabytes seems to hold them all, although the system could take them
    back. What was written to a private copy (numpy's mode "c") is lost.
    """
    if isinstance(array.base, mmap.mmap):
        _maps.add(array.base)
    return array


def read_of_files(num_bytes: int) -> None:
    """Count what was read of mapped files, and return their pages whenever it is much."""
    global _read
    _read += num_bytes
    if _read > MOST_READ:
        _return_pages()


def _return_pages() -> None:
    global _read
    _read = 0
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        for pages in _maps:
            pages.madvise(mmap.MADV_DONTNEED)
