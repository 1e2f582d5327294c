"""Memory that was freed but is still the process's own -> the system's."""

import contextlib
import ctypes


def give_back() -> None:
    """Ask the C library for it, where it is glibc; elsewhere nothing happens.

    Small things that stay, between large ones that go, leave holes in which the next large one does not quite fit: encoding
    4,000 images, or a validation now and then, would hold a gigabyte that nobody uses.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
