"""A disk's share of the buffers, and the pools of them that disks of the same kind share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mover.device.buffers import BufferPool, Run
from mover.pipeline.flow import Budget
from mover.pipeline.lane import Lane


class SharedPools:
    """A process's pools, one per kind of buffer, each as long as a disk uses it."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._pools: dict[tuple[int, int], tuple[BufferPool, int]] = {}
        """Buffer size and how many may go together → the pool and how many disks use it."""
        self._lock = threading.Lock()

    @contextmanager
    def pool(self, buffer_bytes: int, together: int) -> Iterator[BufferPool]:
        """The pool of this kind; the last of its disks closes it."""
        kind = buffer_bytes, together
        with self._lock:
            pool, users = self._pools.get(kind) or (self._new(buffer_bytes, together), 0)
            self._pools[kind] = pool, users + 1
        try:
            yield pool
        finally:
            self._drop(kind)

    def _new(self, buffer_bytes: int, together: int) -> BufferPool:
        count = max(1, -(-self._budget.buffer_limit_bytes // buffer_bytes))
        return BufferPool(buffer_bytes, count, together=together)

    def _drop(self, kind: tuple[int, int]) -> None:
        with self._lock:
            pool, users = self._pools[kind]
            if users > 1:
                self._pools[kind] = pool, users - 1
                return
            del self._pools[kind]
        pool.close()


class DiskBuffers:
    """One disk's share of the pool: at most ``most`` buffers, each paid for from the Budget.

    Long reads cost fewer hand-overs a block, many reads in flight fill disks that answer late:
    so several buffers go together only while half of the Budget's are free.
    """

    def __init__(self, lane: Lane, pool: BufferPool, budget: Budget, most: int) -> None:
        self._lane = lane
        self._pool = pool
        self._budget = budget
        self._most = most
        self._leased = self._waiting = 0
        self._lock = threading.Lock()
        self._has_room = threading.Condition(self._lock)

    def lease(self, size_bytes: int) -> Run | None:
        """Memory of that size where bytes abound, of at least one buffer; waits. None when the lane has stopped."""
        wanted = -(-size_bytes // self._pool.buffer_bytes)
        with self._lock:
            while self._leased >= self._most and not self._lane.is_stopped:
                self._waiting += 1
                self._has_room.wait()
                self._waiting -= 1
            if self._lane.is_stopped:
                return None
            wanted = min(wanted, self._most - self._leased)
            self._leased += wanted
        paid = self._pay(wanted)
        run = self._pool.lease_run(paid, self._is_stopped) if paid else None
        got = 0 if run is None else len(run)
        if got < wanted:
            self._return(wanted - got, paid - got)
        return run

    def give_back(self, run: Run) -> None:
        count = len(run)
        run.give_back()
        self._return(count, count)

    def _pay(self, wanted: int) -> int:
        """How many buffers the budget has been charged for: all, or one, or none when the lane has stopped."""
        size, half = self._pool.buffer_bytes, self._budget.buffer_limit_bytes // 2
        if wanted > 1 and self._budget.try_acquire(wanted * size, left_bytes=half):
            return wanted
        return 1 if self._budget.acquire(size, owner=self._lane) else 0

    def wake(self) -> None:
        """The lane has stopped: nobody waits for a buffer any more."""
        self._budget.forget(self._lane)
        self._pool.wake()
        with self._lock:
            self._has_room.notify_all()

    def _return(self, shares: int, paid: int) -> None:
        if paid:
            self._budget.release(paid * self._pool.buffer_bytes)
        with self._lock:
            self._leased -= shares
            if self._waiting:
                self._has_room.notify(shares)

    def _is_stopped(self) -> bool:
        return self._lane.is_stopped
