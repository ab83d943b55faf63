"""The C library's memory, shared by all threads.

glibc gives each thread a heap of its own, and each keeps what its largest blocks once took: over
hundreds of backups a process grew by a third. The calls are few and long, so that one heap costs nothing.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8
"""``M_ARENA_MAX`` of glibc's malloc.h."""


def share_one_heap() -> bool:
    """Threads that start from now on make no heaps of their own. False where the C library is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_ARENA_MAX, 1) == 1


def give_back_memory() -> bool:
    """What is free returns to the system, which keeps it otherwise as long as anything above is in use.

    A few milliseconds. False where the C library is another.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1
