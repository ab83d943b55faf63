"""Memory that packs are made in, used again: fresh pages cost twice what their encryption does.

A late copy of an upload that timed out may still be reading a pack's memory, so it becomes
another pack's only once nobody has a view of it.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress


class PackMemory:
    """Keeps at most ``most`` pieces of ``usual_bytes`` between packs. Any thread."""

    def __init__(self, *, usual_bytes: int, most: int) -> None:
        self._usual_bytes, self._most = usual_bytes, most
        self._kept: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> mmap.mmap:
        """Private memory of that size, page-aligned; its content is unspecified."""
        if size_bytes == self._usual_bytes:
            with self._lock:
                free = next((memory for memory in self._kept if _is_unseen(memory)), None)
                if free is not None:
                    self._kept.remove(free)
                    return free
        return private_memory(size_bytes)

    def give_back(self, memory: mmap.mmap) -> None:
        """The caller is done with it; others may still have views of it."""
        if len(memory) == self._usual_bytes:
            with self._lock:
                self._kept.append(memory)
                # The oldest goes: who still looks at it keeps it alive.
                del self._kept[: -self._most]

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()


def private_memory(size_bytes: int) -> mmap.mmap:
    """Fresh anonymous memory, in huge pages where the system has them."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        # A pack is written once from end to end: 16 faults instead of 8,192.
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _is_unseen(memory: mmap.mmap) -> bool:
    """Whether nobody has a view of it: only then may its size be set, here to what it is."""
    try:
        memory.resize(len(memory))
    except BufferError:
        return False
    return True
