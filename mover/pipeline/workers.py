"""The threads that touch blocks: a process's compute and restore threads, a disk's readers.

One ``Workers`` serves all disks of a process. Blocks travel through plain threads and
channels; the event loop only starts a ``Lane`` (the work of one disk) and awaits its end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

from mover.config import DataSettings
from mover.device.buffers import BufferPool, Run
from mover.device.memory import HUGE_BYTES, direct_memory
from mover.metrics import BUDGET_BYTES, BUDGET_WAITING, QUEUE_FILL, STAGE_SECONDS
from mover.pipeline.allocator import give_back_memory, share_one_heap
from mover.pipeline.flow import Budget, Channel, Closed
from mover.units import align_up

T = TypeVar("T")

_SPARE_BUFFERS = 6
"""Buffers of a disk beyond one per reader and compute thread: fewer leave a thread waiting, more gain nothing."""

_NEVER_FULL = 1 << 16
"""Capacity of the task channels. The bound is elsewhere: each task holds bytes of the Budget."""


class Scratch:
    """A page-aligned buffer that one thread owns; grows to the largest block it meets."""

    def __init__(self) -> None:
        self._view = memoryview(b"")

    def take(self, size_bytes: int) -> memoryview:
        """At least nothing, exactly ``size_bytes`` long; content unspecified, valid until the next take."""
        if len(self._view) < size_bytes:
            self._view = direct_memory(align_up(size_bytes, HUGE_BYTES))
        return self._view[:size_bytes]


class Lane:
    """The work of one disk on many threads: the first error wins, and its end can be awaited.

    Whoever works for it enters before and leaves after. When all have left it is drained:
    no thread touches its device or buffers any more. Made and awaited on the event loop.
    """

    def __init__(self) -> None:
        self.is_stopped = False
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._drained: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._inside = 1
        self._on_stop: list[Callable[[], object]] = []
        self._on_cancel: list[Callable[[], object]] = []

    def when_stopped(self, action: Callable[[], object]) -> None:
        """Call ``action`` once, on any thread, when the lane fails: it wakes who waits."""
        self._on_stop.append(action)

    def when_cancelled(self, action: Callable[[], object]) -> None:
        """Call ``action`` on the loop when ``drain`` is cancelled: it frees threads that wait for others."""
        self._on_cancel.append(action)

    def enter(self) -> None:
        with self._lock:
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            is_last = self._inside == 0
        if is_last:
            self._loop.call_soon_threadsafe(self._drained.set_result, None)

    def fail(self, error: BaseException) -> None:
        """Stop the lane. Only the first error is kept."""
        with self._lock:
            if self.is_stopped:
                return
            self.error = error
            self.is_stopped = True
        for action in self._on_stop:
            action()

    def run(self, work: Callable[..., None], *arguments: object) -> None:
        """Do ``work`` for one who entered, turn its exception into the lane's, and leave."""
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001, RUF100 - a thread's last frame: the lane carries it to the loop
            self.fail(error)
        finally:
            self.leave()

    def spawn(self, count: int, work: Callable[[], None], name: str) -> None:
        """Run ``work`` on ``count`` threads of its own."""
        for number in range(count):
            self.enter()
            thread = threading.Thread(target=self.run, args=(work,), name=f"{name}-{number}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self.fail(error)
                self.leave()

    async def drain(self) -> None:
        """Wait until all have left. ``error`` then tells how it went.

        Cancelled, it stops the lane, keeps the cancellation as its error, and still waits:
        the caller closes the device next.
        """
        self.leave()
        while not self._drained.done():
            try:
                await asyncio.wait([self._drained])
            except asyncio.CancelledError as error:
                self.fail(error)
                for action in self._on_cancel:
                    action()


Work = Callable[[Scratch], None]


class Workers:
    """A process's threads and its Budget. Start once, stop once, after all disks have ended.

    compute: hash, compress, seal. restore: open, verify, write. Tasks are served in order of
    arrival; a disk is fair to the others because its buffers, hence its tasks, are few.
    """

    def __init__(self, settings: DataSettings, budget: Budget) -> None:
        self.settings = settings
        self.budget = budget
        self.compute_threads = settings.compute_threads or len(os.sched_getaffinity(0))
        self._compute: Channel[tuple[Lane, Work]] = Channel(_NEVER_FULL)
        self._restore: Channel[tuple[Lane, Work]] = Channel(_NEVER_FULL)
        self._threads: list[threading.Thread] = []
        self._executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="pipeline")
        self._pools: dict[tuple[int, int], tuple[BufferPool, int]] = {}
        self._pools_lock = threading.Lock()
        self._published_s: dict[tuple[str, str], float] = {}
        self._disks = 0

    def start(self) -> None:
        """Start the threads. Raises RuntimeError when called twice."""
        if self._threads:
            raise RuntimeError("the workers run already")
        share_one_heap()
        for name, channel, count in (
            ("compute", self._compute, self.compute_threads),
            ("restore", self._restore, self.settings.restore_threads),
        ):
            for number in range(count):
                thread = threading.Thread(target=_serve, args=(channel,), name=f"{name}-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """Finish the tasks that were given and end the threads. Idempotent."""
        self._compute.close()
        self._restore.close()
        for thread in self._threads:
            thread.join()
        self._executor.shutdown()

    def submit_compute(self, lane: Lane, work: Work) -> None:
        """Have ``work`` done by a compute thread; its exception becomes the lane's."""
        _submit(self._compute, lane, work)

    def submit_restore(self, lane: Lane, work: Work) -> None:
        """The same by a restore thread."""
        _submit(self._restore, lane, work)

    async def blocking(self, call: Callable[[], T]) -> T:
        """Run a call that computes or waits for long off the event loop.

        Cancelled, it still waits for the call: what the call uses is closed next.
        """
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await _outlast(future)
            raise

    @asynccontextmanager
    async def one_disk(self) -> AsyncIterator[None]:
        """Around all of one disk's work. When the last one ends, a node that rests takes no more than it needs."""
        self._disks += 1
        try:
            yield
        finally:
            self._disks -= 1
            if not self._disks:
                await self.blocking(give_back_memory)

    @contextmanager
    def disk_buffers(self, lane: Lane, buffer_bytes: int, together: int) -> Iterator[DiskBuffers]:
        """Buffers for one disk, up to ``together`` at a time, from a pool that all disks of the same kind share."""
        kind = buffer_bytes, together
        with self._pools_lock:
            pool, users = self._pools.get(kind) or (self._new_pool(buffer_bytes, together), 0)
            self._pools[kind] = pool, users + 1
        most = (self.settings.readers + self.compute_threads) * together + _SPARE_BUFFERS
        buffers = DiskBuffers(lane, pool, self.budget, most)
        lane.when_stopped(buffers.wake)
        try:
            yield buffers
        finally:
            self._drop_pool(kind)

    def publish(self) -> None:
        """Set the process's gauges: budget, queues, waiting seconds. Called at about 1 Hz."""
        BUDGET_BYTES.labels("total").set(self.budget.total_bytes)
        BUDGET_BYTES.labels("used").set(self.budget.used_bytes)
        for name, channel in (("compute", self._compute), ("restore", self._restore)):
            statistics = channel.statistics()
            QUEUE_FILL.labels(name).set(statistics.waiting)
            self._count_seconds(name, "idle", statistics.get_wait_s)
        for side, seconds in self.budget.waited_s().items():
            self._count_seconds(side, "waiting", seconds)
        for side, waiters in self.budget.waiting_now().items():
            BUDGET_WAITING.labels(side).set(waiters)

    def _count_seconds(self, stage: str, state: str, total_s: float) -> None:
        former = self._published_s.get((stage, state), 0.0)
        STAGE_SECONDS.labels(stage, state).inc(total_s - former)
        self._published_s[stage, state] = total_s

    def _new_pool(self, buffer_bytes: int, together: int) -> BufferPool:
        count = max(1, -(-self.budget.buffer_limit_bytes // buffer_bytes))
        return BufferPool(buffer_bytes, count, together=together)

    def _drop_pool(self, kind: tuple[int, int]) -> None:
        with self._pools_lock:
            pool, users = self._pools[kind]
            if users > 1:
                self._pools[kind] = pool, users - 1
                return
            del self._pools[kind]
        pool.close()

    def __enter__(self) -> Workers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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


async def _outlast(future: asyncio.Future[T]) -> None:
    """Wait for it however often one is cancelled meanwhile; what it raises is nobody's any more."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
    future.exception()


def _submit(channel: Channel[tuple[Lane, Work]], lane: Lane, work: Work) -> None:
    lane.enter()
    try:
        channel.put((lane, work))
    except Closed:
        lane.leave()
        raise RuntimeError("the workers were stopped while a disk was in work") from None


def _serve(channel: Channel[tuple[Lane, Work]]) -> None:
    """A worker thread's life."""
    scratch = Scratch()
    while True:
        try:
            lane, work = channel.get()
        except Closed:
            return
        lane.run(work, scratch)
