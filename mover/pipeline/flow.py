"""What keeps the flow of bytes bounded and visible: Budget and Meter.

Both are for plain threads. Only the Budget has an asynchronous face too, since the loop
waits for room before it fetches.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mover.errors import ConfigError
from mover.pipeline.waiting import Waiting
from mover.units import format_size


class _Waiter:
    """One who waits for bytes. ``wake`` is called once, under the budget's lock."""

    __slots__ = ("owner", "size", "wake", "was_granted")

    def __init__(self, size: int, owner: object, wake: Callable[[], object]) -> None:
        self.size = size
        self.owner = owner
        self.wake = wake
        self.was_granted = False


class Budget:
    """Bytes in flight in this process: buffers and packs. Nothing free, no read.

    Packs have precedence: while one waits, no buffer is leased. There is no deadlock, since
    neither side can take the other's last share. A buffer is given back only after its
    blocks found room in a pack, so room for one whole pack is kept from the buffers; a
    pack is filled only by blocks in buffers, so an eighth is kept from the packs.
    Both sides are served in order of asking.
    """

    def __init__(self, total_bytes: int, *, kept_for_packs_bytes: int | None = None) -> None:
        self.total_bytes = total_bytes
        self.kept_for_packs_bytes = total_bytes // 2 if kept_for_packs_bytes is None else kept_for_packs_bytes
        self.kept_for_buffers_bytes = total_bytes // 8
        if not 0 <= self.kept_for_packs_bytes <= total_bytes - self.kept_for_buffers_bytes:
            raise _too_small(self.kept_for_packs_bytes, "the packs", total_bytes)
        self._lock = threading.Lock()
        self._buffers = 0
        self._packs = 0
        self._buffer_queue: deque[_Waiter] = deque()
        self._pack_queue: deque[_Waiter] = deque()
        self._waiting = {"buffers": Waiting(), "packs": Waiting()}

    @property
    def buffer_limit_bytes(self) -> int:
        """The most that buffers may hold at a time."""
        return self.total_bytes - self.kept_for_packs_bytes

    @property
    def buffers_bytes(self) -> int:
        return self._buffers

    @property
    def packs_bytes(self) -> int:
        return self._packs

    @property
    def used_bytes(self) -> int:
        return self._buffers + self._packs

    def try_acquire(self, size_bytes: int, *, left_bytes: int = 0) -> bool:
        """Take bytes for a buffer if nobody waits, they are free, and ``left_bytes`` for others stay so."""
        with self._lock:
            room = self.buffer_limit_bytes - self._buffers - size_bytes
            return room >= left_bytes and self._take_buffer_now(size_bytes)

    def acquire(self, size_bytes: int, *, owner: object = None) -> bool:
        """Take bytes for a buffer, waiting for them. False when ``forget(owner)`` came first.

        Raises ConfigError when that much can never be free. Never call it on the event loop.
        """
        self._check_buffer(size_bytes)
        with self._lock:
            if self._take_buffer_now(size_bytes):
                return True
            event = threading.Event()
            waiter = _Waiter(size_bytes, owner, event.set)
            self._queue_buffer(waiter)
        event.wait()
        return waiter.was_granted

    async def acquire_async(self, size_bytes: int) -> None:
        """The same for the event loop. Cancelling it leaves nothing taken."""
        self._check_buffer(size_bytes)
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._take_buffer_now(size_bytes):
                return
            waiter = _Waiter(size_bytes, None, lambda: loop.call_soon_threadsafe(_resolve, granted))
            self._queue_buffer(waiter)
        try:
            await granted
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def release(self, size_bytes: int) -> None:
        """Give back what ``acquire`` took."""
        with self._lock:
            self._buffers -= size_bytes
            if self._buffer_queue or self._pack_queue:
                self._serve()

    def forget(self, owner: object) -> None:
        """Send every thread that waits in the name of ``owner`` away empty-handed."""
        with self._lock:
            for waiter in [w for w in self._buffer_queue if w.owner is owner]:
                self._buffer_queue.remove(waiter)
                self._waiting["buffers"].leave()
                waiter.wake()
            self._serve()

    def reserve_pack(self, size_bytes: int) -> None:
        """Take bytes for a pack before its first record; waits, ahead of all buffers.

        Raises ConfigError when the budget has no certain room for such a pack.
        """
        if size_bytes > self.kept_for_packs_bytes:
            raise _too_small(size_bytes, "one pack", self.total_bytes)
        with self._lock:
            if not self._pack_queue and self._pack_fits(size_bytes):
                self._packs += size_bytes
                return
            event = threading.Event()
            self._pack_queue.append(_Waiter(size_bytes, None, event.set))
            self._waiting["packs"].enter()
        event.wait()

    def release_pack(self, size_bytes: int) -> None:
        """Give back what ``reserve_pack`` took."""
        with self._lock:
            self._packs -= size_bytes
            self._serve()

    def waited_s(self) -> dict[str, float]:
        """Seconds that threads and tasks have waited for bytes until now, by side."""
        with self._lock:
            return {side: waiting.seconds() for side, waiting in self._waiting.items()}

    def waiting_now(self) -> dict[str, int]:
        """How many threads and tasks wait for bytes at this time, by side."""
        return {side: waiting.now for side, waiting in self._waiting.items()}

    def _serve(self) -> None:
        while self._pack_queue and self._pack_fits(self._pack_queue[0].size):
            waiter = self._pack_queue.popleft()
            self._waiting["packs"].leave()
            self._packs += waiter.size
            waiter.was_granted = True
            waiter.wake()
        while not self._pack_queue and self._buffer_queue and self._buffer_fits(self._buffer_queue[0].size):
            waiter = self._buffer_queue.popleft()
            self._waiting["buffers"].leave()
            self._buffers += waiter.size
            waiter.was_granted = True
            waiter.wake()

    def _take_buffer_now(self, size: int) -> bool:
        if self._pack_queue or self._buffer_queue or not self._buffer_fits(size):
            return False
        self._buffers += size
        return True

    def _buffer_fits(self, size: int) -> bool:
        return self._buffers + size <= self.buffer_limit_bytes and self.used_bytes + size <= self.total_bytes

    def _pack_fits(self, size: int) -> bool:
        limit = self.total_bytes - self.kept_for_buffers_bytes
        return self._packs + size <= limit and self.used_bytes + size <= self.total_bytes

    def _check_buffer(self, size: int) -> None:
        if size > min(self.buffer_limit_bytes, self.total_bytes):
            raise _too_small(size, "one buffer", self.total_bytes)

    def _withdraw(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.was_granted:
                self._buffers -= waiter.size
            else:
                self._buffer_queue.remove(waiter)
                self._waiting["buffers"].leave()
            self._serve()

    def _queue_buffer(self, waiter: _Waiter) -> None:
        self._buffer_queue.append(waiter)
        self._waiting["buffers"].enter()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _too_small(size: int, what: str, total: int) -> ConfigError:
    return ConfigError(
        f"data.budget of {format_size(total)} has no room for {what} of {format_size(size)}",
        remedy="Raise data.budget, or lower repository.pack_size or data.block_size.",
    )


@dataclass(frozen=True, slots=True)
class Count:
    """What went through a stage: blocks or runs, their bytes, and the threads' seconds in it."""

    items: int = 0
    size_bytes: int = 0
    seconds: float = 0.0


def grown(stage: str, before: Mapping[str, Count], after: Mapping[str, Count]) -> Count:
    """What a stage did between two readings of a meter."""
    old, new = before.get(stage, Count()), after.get(stage, Count())
    return Count(new.items - old.items, new.size_bytes - old.size_bytes, new.seconds - old.seconds)


class Meter:
    """Counters of one disk by stage, written by all threads, read at about 1 Hz by others.

    Stages of a copy: read, compute, zero, known, new, stored, and the audit's unchanged,
    zeroed, unlisted. Of a restore: fetched, opened, zero, written, readback. ``done_bytes``
    approaches ``planned_bytes``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, list[float]] = {}
        self._planned = 0
        self._done = 0

    def plan(self, size_bytes: int) -> None:
        """Set how many bytes are to be done; what was done is forgotten."""
        with self._lock:
            self._planned, self._done = size_bytes, 0

    def add(self, stage: str, *, items: int = 1, size_bytes: int = 0, seconds: float = 0.0) -> None:
        with self._lock:
            count = self._counts.setdefault(stage, [0, 0, 0.0])
            count[0] += items
            count[1] += size_bytes
            count[2] += seconds

    def advance(self, size_bytes: int) -> None:
        """So many of the planned bytes are done."""
        with self._lock:
            self._done += size_bytes

    @property
    def planned_bytes(self) -> int:
        return self._planned

    @property
    def done_bytes(self) -> int:
        return self._done

    def read(self) -> dict[str, Count]:
        """A consistent copy of all counters."""
        with self._lock:
            return {name: Count(int(c[0]), int(c[1]), c[2]) for name, c in self._counts.items()}
