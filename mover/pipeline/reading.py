"""One way over a disk: read ahead, compute, map; and check what the regions say.

Reader threads fill buffers, compute threads empty them. The event loop hands out windows
of a few thousand blocks and awaits the end; it never sees a block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np

from mover.clock import stopwatch
from mover.device.buffers import Run
from mover.device.protocol import ReadableDevice
from mover.model.point import ID_BYTES, ZERO_ID
from mover.pipeline.channel import Channel, Closed
from mover.pipeline.diskbuffers import DiskBuffers
from mover.pipeline.flow import Meter
from mover.pipeline.lane import Lane
from mover.pipeline.plan import Piece, Purpose, ReadPlan, cut
from mover.pipeline.ports import BlockWriter, MapBuilder, MapReader
from mover.pipeline.workers import Scratch, Workers
from mover.units import align_up

_WINDOW_BLOCKS = 4096
"""Blocks handed out at a time, with the base's ids of those to be checked: at most 128 KiB."""
_WINDOWS_AHEAD = 2
_MAP_READS = 8
"""Reads of the base map in flight for the audit."""
_MAP_GAP_BLOCKS = 1024
"""Blocks to be compared that lie nearer are looked up together: they share a node of the map, or two."""
_MAP_READ_BLOCKS = 16 * 1024
"""Blocks looked up together at most: half a MiB of ids."""


class Contradiction(Exception):
    """A block is not what the regions say. Never leaves ``copy_disk``."""

    def __init__(self, purpose: Purpose, offset_bytes: int) -> None:
        super().__init__(f"the block at byte {offset_bytes} was reported as {purpose.audit_class}, and is not")


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of the plan: what to read, the base's ids of what to compare, what is zero."""

    spans: list[Piece]
    expected: list[bytes]
    """Ids by span; empty unless the span is to be compared with the base."""
    zero_from: int
    zero_to: int
    """Rows of the plan's zero spans that begin within this window."""


_Batch = list[tuple[Piece, bytes]]
"""Reads that share a buffer and a task, with the ids to compare: small blocks cost one hop together."""


class Reading:
    """One way over a disk with one plan and one map."""

    def __init__(
        self,
        plan: ReadPlan,
        base: MapReader | None,
        builder: MapBuilder,
        *,
        workers: Workers,
        session: BlockWriter,
        device: ReadableDevice,
        meter: Meter,
    ) -> None:
        self._plan = plan
        self._base = base
        self._builder = builder
        self._workers = workers
        self._session = session
        self._device = device
        self._meter = meter
        self._block_bytes = plan.block_bytes
        self._read_bytes = align_up(max(workers.settings.read_size, plan.block_bytes), plan.block_bytes)
        self._windows: Channel[_Window] = Channel(_WINDOWS_AHEAD)
        self._room = asyncio.Semaphore(_WINDOWS_AHEAD)
        self._batches: Iterator[_Batch] = iter(())
        self._taking = Lock()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Read, check and store all that the plan says. Raises the first error of any thread."""
        self._meter.plan(self._plan.read_bytes)
        lane = Lane()
        lane.when_stopped(self._stop_feeding)
        # A thread may wait for room in a pack, and whoever makes room is cancelled only after us.
        lane.when_cancelled(self._session.interrupt)
        together = self._read_bytes // self._block_bytes
        with self._workers.disk_buffers(lane, self._block_bytes, together) as buffers:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed(lane))
                lane.spawn(self._workers.settings.readers, partial(self._read, lane, buffers), "read")
                await lane.drain()
                feeding.cancel()
        if lane.error is not None:
            raise lane.error

    def _stop_feeding(self) -> None:
        self._windows.close(discard=True)

    # --- on the event loop

    async def _feed(self, lane: Lane) -> None:
        try:
            async for window in self._windows_with_ids():
                await self._room.acquire()
                self._windows.put(window)
        except Closed:
            pass  # the lane has stopped and knows why
        except Exception as error:
            lane.fail(error)
        finally:
            self._windows.close()

    async def _windows_with_ids(self) -> AsyncIterator[_Window]:
        zero_from = 0
        for spans in self._plan.windows(_WINDOW_BLOCKS):
            end = spans[-1].first + spans[-1].blocks
            zero_to = int(np.searchsorted(self._plan.zero_firsts, end))
            yield _Window(spans, await self._expected(spans), zero_from, zero_to)
            zero_from = zero_to
        yield _Window([], [], zero_from, len(self._plan.zero_firsts))

    async def _expected(self, spans: list[Piece]) -> list[bytes]:
        base, expected = self._base, [b""] * len(spans)
        wanted = [i for i, span in enumerate(spans) if span.purpose is Purpose.CHECK_UNCHANGED]
        if not wanted or base is None:
            return expected
        gate = asyncio.Semaphore(_MAP_READS)

        async def look_up(near: list[int]) -> None:
            first, last = spans[near[0]].first, spans[near[-1]]
            async with gate:
                ids = await base.ids(first, last.first + last.blocks - first)
            for index in near:
                start = (spans[index].first - first) * ID_BYTES
                expected[index] = ids[start : start + spans[index].blocks * ID_BYTES]

        try:
            async with asyncio.TaskGroup() as group:
                for near in _neighbourhoods(spans, wanted):
                    group.create_task(look_up(near))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return expected

    # --- on reader threads

    def _read(self, lane: Lane, buffers: DiskBuffers) -> None:
        while (batch := self._take(lane)) is not None:
            while batch:
                buffer = buffers.lease(sum(piece.blocks for piece, _ in batch) * self._block_bytes)
                if buffer is None:
                    return
                now, batch = _divided(batch, len(buffer))
                try:
                    self._read_batch(lane, buffers, buffer, now)
                except BaseException:  # no task has the buffer yet; raised again
                    buffers.give_back(buffer)
                    raise

    def _take(self, lane: Lane) -> _Batch | None:
        """The next reads in order of offset; None when there is none or the lane has stopped."""
        with self._taking:
            while not lane.is_stopped:
                batch = next(self._batches, None)
                if batch is not None:
                    return batch
                try:
                    window = self._windows.get()
                except Closed:
                    return None
                self._loop.call_soon_threadsafe(self._room.release)
                self._workers.submit_compute(lane, partial(self._put_zeroes, window))
                self._batches = self._batched(window)
            return None

    def _batched(self, window: _Window) -> Iterator[_Batch]:
        most = self._read_bytes // self._block_bytes
        batch: _Batch = []
        room = most
        for taken in self._cut(window, most):
            if taken[0].blocks > room:
                yield batch
                batch, room = [], most
            batch.append(taken)
            room -= taken[0].blocks
        if batch:
            yield batch

    def _cut(self, window: _Window, most: int) -> Iterator[tuple[Piece, bytes]]:
        for span, ids in zip(window.spans, window.expected, strict=True):
            for piece in cut([span], most):
                start = (piece.first - span.first) * ID_BYTES
                yield piece, ids[start : start + piece.blocks * ID_BYTES]

    def _read_batch(self, lane: Lane, buffers: DiskBuffers, buffer: Run, batch: _Batch) -> None:
        end, started = 0, stopwatch()
        for piece, _ in batch:
            start, end = end, end + self._plan.piece_bytes(piece)
            self._device.read_into(buffer.view[start:end], piece.first * self._block_bytes)
        self._meter.add("read", items=len(batch), size_bytes=end, seconds=stopwatch() - started)
        self._workers.submit_compute(lane, partial(self._process, lane, buffers, buffer, batch))

    # --- on compute threads

    def _put_zeroes(self, window: _Window, _: Scratch) -> None:
        firsts, counts = self._plan.zero_firsts, self._plan.zero_counts
        for row in range(window.zero_from, window.zero_to):
            self._builder.put_zero(int(firsts[row]), int(counts[row]))

    def _process(self, lane: Lane, buffers: DiskBuffers, buffer: Run, batch: _Batch, _: Scratch) -> None:
        try:
            end, started = 0, stopwatch()
            for piece, expected in batch:
                if lane.is_stopped:
                    return
                start, end = end, end + self._plan.piece_bytes(piece)
                if piece.purpose is Purpose.COPY:
                    self._store(piece, buffer.view[start:end])
                else:
                    self._compare(piece, buffer.view[start:end], expected)
            self._meter.add("compute", items=len(batch), size_bytes=end, seconds=stopwatch() - started)
            self._meter.advance(end)
        finally:
            buffers.give_back(buffer)

    def _store(self, piece: Piece, view: memoryview) -> None:
        ids = []
        for block in self._blocks(view):
            stored = self._session.store_block(block)
            ids.append(stored.id)
            self._meter.add(stored.kind, size_bytes=len(block))
            if stored.stored_bytes:
                self._meter.add("stored", size_bytes=stored.stored_bytes)
        self._builder.put(piece.first, b"".join(ids))

    def _compare(self, piece: Piece, view: memoryview, expected: bytes) -> None:
        expected = expected or ZERO_ID * piece.blocks
        for index, block in enumerate(self._blocks(view)):
            if self._session.block_id(block) != expected[index * ID_BYTES : (index + 1) * ID_BYTES]:
                raise Contradiction(piece.purpose, (piece.first + index) * self._block_bytes)
            self._meter.add(piece.purpose.audit_class, size_bytes=len(block))

    def _blocks(self, view: memoryview) -> Iterator[memoryview]:
        if len(view) <= self._block_bytes:
            yield view
            return
        for start in range(0, len(view), self._block_bytes):
            yield view[start : start + self._block_bytes]


def _divided(batch: _Batch, blocks: int) -> tuple[_Batch, _Batch]:
    """The reads of a batch that need so many blocks, and the rest."""
    now: _Batch = []
    for index, (piece, expected) in enumerate(batch):
        if piece.blocks > blocks:
            if not blocks:
                return now, batch[index:]
            border = blocks * ID_BYTES
            now.append((piece._replace(blocks=blocks), expected[:border]))
            rest = piece._replace(first=piece.first + blocks, blocks=piece.blocks - blocks)
            return now, [(rest, expected[border:]), *batch[index + 1 :]]
        now.append((piece, expected))
        blocks -= piece.blocks
    return now, []


def _neighbourhoods(spans: list[Piece], wanted: list[int]) -> Iterator[list[int]]:
    """The wanted spans (by index, ascending) in groups that are looked up together."""
    near: list[int] = []
    for index in wanted:
        if near:
            first, last, span = spans[near[0]].first, spans[near[-1]], spans[index]
            is_far = span.first - (last.first + last.blocks) >= _MAP_GAP_BLOCKS
            if is_far or span.first + span.blocks - first > _MAP_READ_BLOCKS:
                yield near
                near = []
        near.append(index)
    if near:
        yield near
