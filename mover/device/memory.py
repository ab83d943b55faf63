"""Memory for direct I/O: page-aligned, in huge pages where it fills some, never shared with a fork."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

from mover.units import MIB

HUGE_BYTES = 2 * MIB
"""A huge page of x86, and of Arm with pages of 4 KiB."""


def direct_memory(size_bytes: int) -> memoryview:
    """Anonymous memory of that size; the last view of it unmaps it.

    The kernel pins the pages of a buffer for each transfer: 256 small ones of a MiB take it
    40 us, one huge page 7. A fork gets no copy: what the kernel is writing would land in one of the two.
    """
    is_huge = size_bytes >= HUGE_BYTES
    mapped_bytes = size_bytes + HUGE_BYTES if is_huge else size_bytes
    memory = mmap.mmap(-1, mapped_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    if not is_huge:
        return memoryview(memory)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % HUGE_BYTES
    return memoryview(memory)[start : start + size_bytes]
