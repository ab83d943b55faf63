"""Page-aligned buffers that are allocated once, leased, given back and counted."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from types import TracebackType

from mover.device.memory import HUGE_BYTES, direct_memory


class Buffer:
    """One leased buffer. Use ``view`` until ``give_back``, from one thread at a time."""

    __slots__ = ("_pool", "is_leased", "view")

    def __init__(self, pool: BufferPool, view: memoryview) -> None:
        self._pool = pool
        self.view = view
        self.is_leased = False

    def give_back(self) -> None:
        """Return it to its pool. Twice is an error of the caller: somebody else may own it by then."""
        self._pool._take_back(self)

    def _free(self) -> None:
        # Not closed by force: a traceback may still hold a slice. The last reference unmaps it.
        self.view = memoryview(b"")


class BufferPool:
    """At most ``count`` buffers of ``buffer_bytes`` each, made when first needed.

    Thread-safe. The last one given back is the first one leased again: it is the one that
    is still in the cache, and memory beyond the high-water mark is never touched.
    """

    def __init__(self, buffer_bytes: int, count: int) -> None:
        if buffer_bytes <= 0 or buffer_bytes % mmap.PAGESIZE or count <= 0:
            raise ValueError(f"{count} buffers of {buffer_bytes} bytes: whole pages, and at least one")
        self.buffer_bytes = buffer_bytes
        self.count = count
        self._free: list[Buffer] = []
        self._uncut = memoryview(b"")
        """Memory for buffers to come: several share a huge page."""
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
        """Buffers that exist: the high-water mark of leases."""
        return self._made

    def lease(self, is_cancelled: Callable[[], bool] | None = None) -> Buffer | None:
        """A buffer with unspecified content; waits for one.

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
                    return self._hand_out()
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
            self._uncut = memoryview(b"")
            self._made = 0
            self._changed.notify_all()

    def _hand_out(self) -> Buffer:
        if self._free:
            buffer = self._free.pop()
        else:
            buffer = Buffer(self, self._cut())
            self._made += 1
        buffer.is_leased = True
        self._leased += 1
        return buffer

    def _cut(self) -> memoryview:
        if not len(self._uncut):
            most = (self.count - self._made) * self.buffer_bytes
            self._uncut = direct_memory(min(most, max(1, HUGE_BYTES // self.buffer_bytes) * self.buffer_bytes))
        view, self._uncut = self._uncut[: self.buffer_bytes], self._uncut[self.buffer_bytes :]
        return view

    def _take_back(self, buffer: Buffer) -> None:
        with self._lock:
            if not buffer.is_leased:
                raise ValueError("the buffer was given back before")
            buffer.is_leased = False
            self._leased -= 1
            self._free.append(buffer)
            if self._waiting:
                self._changed.notify()

    def __enter__(self) -> BufferPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
