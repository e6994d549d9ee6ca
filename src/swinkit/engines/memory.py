"""C memory that stays from one call of a network to the next."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
KEPT = 2**30  # bytes


@functools.cache
def keep_memory() -> None:
    """Let glibc keep the memory of one call for the next; other C libraries, and a user's own settings, stay as they are.

    The maps of a batch are larger than what glibc holds back by default. It would give them to the system and fetch them again,
    zeroed page by page, in every call: tens of thousands of page faults. It holds for the whole process and cannot be undone in
    it, so the commands ask for it and the library never does; a program that answers much on a CPU calls it once by itself.
    Whoever wants glibc's own ways under a command sets ``GLIBC_TUNABLES`` or any ``MALLOC_`` variable.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        libc.mallopt(M_MMAP_MAX, 0)
