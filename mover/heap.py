"""The C library's memory: shared by all threads, used again, given back at the end.

glibc gives each thread a heap of its own, and each keeps what its largest blocks once took: over
hundreds of backups a process grew by a third. The calls are few and long, so that one heap costs nothing.
"""

from __future__ import annotations

import ctypes

from mover.units import MIB

_LIBC = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""``M_TRIM_THRESHOLD`` and so on of glibc's malloc.h."""
_KEPT_BYTES = 64 * MIB
_PIECE_BYTES = 32 * MIB
"""The most that glibc takes for ``M_MMAP_THRESHOLD``."""


def prepare_heap() -> bool:
    """Threads that start from now on make no heaps of their own, and a block's memory serves the next block.

    A process calls it before its first thread.

    glibc would map the memory of each packed and unpacked block anew, and the system clear its pages: an eighth of a
    restore's processor time. Until ``give_back_memory`` what is free stays below what is in use, and up to
    ``_KEPT_BYTES`` above. False where the C library is another.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    wanted = ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, _KEPT_BYTES), (_MMAP_THRESHOLD, _PIECE_BYTES))
    return mallopt is not None and all(mallopt(name, value) == 1 for name, value in wanted)


def give_back_memory() -> bool:
    """What is free returns to the system, which keeps it otherwise as long as anything above is in use.

    A few milliseconds. False where the C library is another.
    """
    trim = getattr(_LIBC, "malloc_trim", None)
    return trim is not None and trim(0) == 1
