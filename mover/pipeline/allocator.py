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
