"""A process's compute and restore threads, which all its disks share, and what goes with them.

Blocks travel through plain threads and channels; the event loop only starts a ``Lane`` (the
work of one disk) and awaits its end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

import numpy as np

from mover.config import DataSettings
from mover.device.memory import HUGE_BYTES, direct_memory
from mover.heap import give_back_memory, prepare_heap
from mover.metrics import BUDGET_BYTES, BUDGET_WAITING, QUEUE_FILL, STAGE_SECONDS
from mover.pipeline.channel import Channel, Closed
from mover.pipeline.diskbuffers import DiskBuffers, SharedPools
from mover.pipeline.flow import Budget
from mover.pipeline.lane import Lane
from mover.units import KIB, align_up

T = TypeVar("T")

_SPARE_BUFFERS = 6
"""Buffers of a disk beyond one per reader and compute thread: fewer leave a thread waiting, more gain nothing."""

_NUMPY_BYTES, _NUMPY_KEPT = KIB, 7
"""NumPy keeps as many freed pieces of each size below, and gives none of them back."""
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
        self._pools = SharedPools(budget)
        self._published_s: dict[tuple[str, str], float] = {}
        self._disks = 0

    def start(self) -> None:
        """Start the threads. Raises RuntimeError when called twice."""
        if self._threads:
            raise RuntimeError("the workers run already")
        prepare_heap()
        _fill_numpys_store()
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
        most = (self.settings.readers + self.compute_threads) * together + _SPARE_BUFFERS
        with self._pools.pool(buffer_bytes, together) as pool:
            buffers = DiskBuffers(lane, pool, self.budget, most)
            lane.when_stopped(buffers.wake)
            yield buffers

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

    def __enter__(self) -> Workers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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


def _fill_numpys_store() -> None:
    """Its 3.5 MiB at once, side by side: piece by piece over days, each would pin a page of what else was there."""
    pieces = [np.empty(size, np.uint8) for size in range(1, _NUMPY_BYTES) for _ in range(_NUMPY_KEPT)]
    pieces.clear()


def _serve(channel: Channel[tuple[Lane, Work]]) -> None:
    """A worker thread's life."""
    scratch = Scratch()
    while True:
        try:
            lane, work = channel.get()
        except Closed:
            return
        lane.run(work, scratch)
