"""Page-aligned buffers that are allocated once, leased, given back and counted."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from types import TracebackType

from mover.device.memory import HUGE_BYTES, direct_memory


class Buffer:
    """One buffer of a pool. Use ``view`` until it is given back, from one thread at a time."""

    __slots__ = ("_next", "_pool", "_slab", "_start", "is_leased", "view")

    def __init__(self, pool: BufferPool, slab: memoryview, start: int) -> None:
        self._pool = pool
        self._slab, self._start = slab, start
        self._next: Buffer | None = None
        """The one that follows in memory."""
        self.view = slab[start : start + pool.buffer_bytes]
        self.is_leased = False

    def give_back(self) -> None:
        """Return it to its pool. Twice is an error of the caller: somebody else may own it by then."""
        self._pool._take_back([self])

    def _free(self) -> None:
        # Not closed by force: a traceback may still hold a slice. The last reference unmaps it.
        self.view = self._slab = memoryview(b"")
        self._next = None


class Run:
    """Neighbouring buffers of a pool, leased together: one piece of memory."""

    __slots__ = ("_buffers", "_pool", "view")

    def __init__(self, pool: BufferPool, buffers: list[Buffer]) -> None:
        self._pool, self._buffers = pool, buffers
        first = buffers[0]
        end = first._start + len(buffers) * pool.buffer_bytes
        self.view = first.view if len(buffers) == 1 else first._slab[first._start : end]

    def __len__(self) -> int:
        """How many buffers."""
        return len(self._buffers)

    def give_back(self) -> None:
        """Return all of them, once."""
        buffers, self._buffers = self._buffers, []
        if not buffers:
            raise ValueError("the buffers were given back before")
        self._pool._take_back(buffers)


class BufferPool:
    """At most ``count`` buffers of ``buffer_bytes`` each, ``together`` of them side by side in memory.

    Thread-safe. The last one given back is the first one leased again: it is the one that
    is still in the cache, and memory beyond the high-water mark is never touched.
    """

    def __init__(self, buffer_bytes: int, count: int, *, together: int = 1) -> None:
        if buffer_bytes <= 0 or buffer_bytes % mmap.PAGESIZE or count <= 0:
            raise ValueError(f"{count} buffers of {buffer_bytes} bytes: whole pages, and at least one")
        self.buffer_bytes = buffer_bytes
        self.count = count
        is_huge = count * buffer_bytes >= HUGE_BYTES
        self._together = max(together, HUGE_BYTES // buffer_bytes) if is_huge else together
        self._free: dict[Buffer, None] = {}
        """In the order in which they came back."""
        self._made = 0
        self._leased = 0
        self._is_closed = False
        self._waiting = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @property
    def leased(self) -> int:
        """Buffers now out. Zero once all work has ended, however it ended."""
        return self._leased

    @property
    def made(self) -> int:
        """Buffers that exist: the high-water mark of leases, in whole pieces of memory."""
        return self._made

    def lease(self, is_cancelled: Callable[[], bool] | None = None) -> Buffer | None:
        """A buffer with unspecified content; waits for one. As ``lease_run``."""
        run = self.lease_run(1, is_cancelled)
        return None if run is None else run._buffers[0]

    def lease_run(self, most: int, is_cancelled: Callable[[], bool] | None = None) -> Run | None:
        """Neighbouring buffers, as many as lie free together up to ``most``; waits for one.

        None when ``is_cancelled`` says so: it is asked before each wait, so who changes its
        answer calls ``wake``. Raises ValueError when the pool is closed.
        """
        with self._lock:
            while True:
                if self._is_closed:
                    raise ValueError("the buffer pool is closed")
                if is_cancelled is not None and is_cancelled():
                    return None
                if self._free or self._made < self.count:
                    return Run(self, self._hand_out(most))
                self._waiting += 1
                self._changed.wait()
                self._waiting -= 1

    def wake(self) -> None:
        """Let every waiting lease ask again whether it is cancelled."""
        with self._lock:
            self._changed.notify_all()

    def close(self) -> None:
        """Free all memory. Idempotent. Raises ValueError while a buffer is out."""
        with self._lock:
            if self._leased:
                raise ValueError(f"{self._leased} buffers are still leased")
            self._is_closed = True
            for buffer in self._free:
                buffer._free()
            self._free.clear()
            self._made = 0
            self._changed.notify_all()

    def _hand_out(self, most: int) -> list[Buffer]:
        if not self._free:
            self._make()
        last: Buffer | None = self._free.popitem()[0]
        found = []
        while last is not None and not last.is_leased:
            self._free.pop(last, None)
            last.is_leased = True
            found.append(last)
            last = last._next if len(found) < most else None
        self._leased += len(found)
        return found

    def _make(self) -> None:
        """One more piece of memory, the first of its buffers to be leased first."""
        number = min(self._together, self.count - self._made)
        slab = direct_memory(number * self.buffer_bytes)
        following: Buffer | None = None
        for start in range((number - 1) * self.buffer_bytes, -1, -self.buffer_bytes):
            buffer = Buffer(self, slab, start)
            buffer._next, following = following, buffer
            self._free[buffer] = None
        self._made += number

    def _take_back(self, buffers: list[Buffer]) -> None:
        with self._lock:
            # The first one last: whoever leases next finds its followers free.
            for buffer in reversed(buffers):
                if not buffer.is_leased:
                    raise ValueError("the buffer was given back before")
                buffer.is_leased = False
                self._free[buffer] = None
            self._leased -= len(buffers)
            if self._waiting:
                self._changed.notify(len(buffers))

    def __enter__(self) -> BufferPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
