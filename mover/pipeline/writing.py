"""The way of a restore: windows of blocks, fetched pack by pack, opened, verified, written.

The event loop fetches segments of packs; restore threads do the rest. Nothing is written
that did not verify.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from threading import Lock

from mover.clock import stopwatch
from mover.device.protocol import WritableDevice
from mover.errors import Damaged, DeviceFault, StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.model.point import ID_BYTES, DiskImage
from mover.pipeline.flow import Meter
from mover.pipeline.gather import Record, Segment, Window, arrange, wanted_ids
from mover.pipeline.lane import Lane
from mover.pipeline.ports import BlockReader, MapReader
from mover.pipeline.workers import Scratch, Workers
from mover.units import MIB

_WINDOW_BLOCKS = 16 * 1024
"""Blocks planned together: half a MiB of ids; 8 GiB of disk at 512 KiB, so each pack is seldom visited twice."""
_SEGMENT_BYTES = 8 * MIB
_FETCHES = 6
"""Segments of a disk that are in flight or in work."""
_WRITE_BYTES = 2 * MIB
"""Neighbouring blocks are written together up to this: a write of half a MiB costs a fifth more processor time."""
_ZERO_RUN_BYTES = 64 * MIB
"""Zeroes that one task writes."""
_RANGES_KEPT = 1000
"""Disk ranges listed per damaged object; more are counted."""


@dataclass(slots=True)
class Damage:
    """One damaged object and what of the disk depends on it."""

    object_name: str
    reason: str
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """(offset, length) in bytes, in no particular order, the first thousand."""
    lost_bytes: int = 0


@dataclass(slots=True)
class _Claim:
    """The bytes of the Budget and the place at the gate that a segment has, until restore threads answer for them."""

    size_bytes: int
    is_handed_over: bool = False


class _SegmentWork:
    """A fetched segment that several restore threads share."""

    def __init__(self, segment: Segment, data: memoryview, sharers: int, done: Callable[[], None]) -> None:
        self.segment = segment
        self.data = data
        self._next = count()
        self._sharers = sharers
        self._done = done
        self._lock = Lock()

    def take(self) -> tuple[Record, ...] | None:
        row = next(self._next)
        runs = self.segment.runs
        return runs[row] if row < len(runs) else None

    def leave(self) -> None:
        with self._lock:
            self._sharers -= 1
            is_last = self._sharers == 0
        if is_last:
            self.data = memoryview(b"")
            self._done()


class Writing:
    """The work on one image."""

    def __init__(
        self,
        image: DiskImage,
        *,
        reader: BlockReader,
        workers: Workers,
        target: WritableDevice | None,
        meter: Meter,
        skip_zero: bool,
    ) -> None:
        self._image = image
        self._reader = reader
        self._workers = workers
        self._target = target
        self._meter = meter
        self._skip_zero = skip_zero or target is None
        self._segment_bytes = min(_SEGMENT_BYTES, workers.budget.buffer_limit_bytes // 2)
        # What is only verified may be damaged record by record.
        self._most_run = 1 if target is None else max(1, _WRITE_BYTES // image.block_bytes)
        self._gate = asyncio.Semaphore(_FETCHES)
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        zeroes_bytes = 0 if self._skip_zero else self._most_run * image.block_bytes
        self._zeroes = memoryview(mmap.mmap(-1, zeroes_bytes) if zeroes_bytes else b"")
        self.damage: dict[str, Damage] = {}

    async def run(self, sample: dict[int, bytes]) -> None:
        """Fetch, open and write every block; note the ids of the sample."""
        self._meter.plan(self._image.size_bytes)
        lane = Lane()
        async with asyncio.TaskGroup() as group:
            lane.enter()
            feeding = group.create_task(self._feed(lane, sample))
            lane.when_stopped(partial(self._loop.call_soon_threadsafe, feeding.cancel))
            await lane.drain()
        if lane.error is not None:
            raise lane.error

    async def read_back(self, sample: dict[int, bytes]) -> None:
        """Compare the sample's blocks with what the target holds. Raises DeviceFault."""
        lane = Lane()
        for block, wanted in sample.items():
            self._workers.submit_restore(lane, partial(self._read_back, block, wanted))
        await lane.drain()
        if lane.error is not None:
            raise lane.error

    # --- on the event loop

    async def _feed(self, lane: Lane, sample: dict[int, bytes]) -> None:
        try:
            async with asyncio.TaskGroup() as fetching:
                blocks = await self._reader.open_map(self._image)
                for first in range(0, self._image.block_count, _WINDOW_BLOCKS):
                    await self._feed_window(lane, fetching, blocks, first, sample)
        except BaseExceptionGroup as failed:
            lane.fail(failed.exceptions[0])
        finally:
            lane.leave()

    async def _feed_window(
        self, lane: Lane, fetching: asyncio.TaskGroup, blocks: MapReader, first: int, sample: dict[int, bytes]
    ) -> None:
        ids = await self._ids(blocks, first, min(_WINDOW_BLOCKS, self._image.block_count - first))
        for block in sample:
            if first <= block < first + _WINDOW_BLOCKS:
                sample[block] = ids[(block - first) * ID_BYTES : (block - first + 1) * ID_BYTES]
        window = await self._workers.blocking(partial(self._arrange, ids, first))
        self._lose(window.missing)
        for start, blocks_in_run in window.zero_spans:
            await self._zero(lane, start, blocks_in_run)
        for segment in window.segments:
            await self._gate.acquire()
            try:
                await self._workers.budget.acquire_async(segment.length_bytes)
            except BaseException:
                self._gate.release()
                raise
            claim = _Claim(segment.length_bytes)
            # Given back here, not in the task: one that is cancelled before it begins reaches no line of its own.
            fetching.create_task(self._fetch(lane, segment, claim)).add_done_callback(partial(self._settle, claim))

    async def _ids(self, blocks: MapReader, first: int, length: int) -> bytes:
        """Ids of a window. When verifying, the blocks of a damaged map node count as zero, and as lost."""
        try:
            return await blocks.ids(first, length)
        except (Damaged, StorageError) as error:
            if not self._may_collect(error):
                raise
        step, found = self._image.fan_out or length, []
        for start in range(first, first + length, step):
            part = min(step, first + length - start)
            try:
                found.append(await blocks.ids(start, part))
            except (Damaged, StorageError) as error:
                if not self._may_collect(error):
                    raise
                self._note(error, "block map", range(start, start + part))
                found.append(bytes(part * ID_BYTES))
        return b"".join(found)

    async def _zero(self, lane: Lane, start: int, blocks: int) -> None:
        if self._skip_zero:
            size = self._bytes_of(start, blocks)
            self._meter.add("zero", items=blocks, size_bytes=size)
            self._meter.advance(size)
            return
        step = max(1, _ZERO_RUN_BYTES // self._image.block_bytes)
        for first in range(start, start + blocks, step):
            await self._gate.acquire()
            self._workers.submit_restore(
                lane, partial(self._write_zeroes, lane, first, min(step, start + blocks - first))
            )

    def _settle(self, claim: _Claim, _: asyncio.Task[None]) -> None:
        if not claim.is_handed_over:
            self._workers.budget.release(claim.size_bytes)
            self._gate.release()

    async def _fetch(self, lane: Lane, segment: Segment, claim: _Claim) -> None:
        try:
            started = stopwatch()
            data = await self._reader.fetch(
                segment.pack_no, offset_bytes=segment.offset_bytes, length_bytes=segment.length_bytes
            )
            self._meter.add("fetched", size_bytes=segment.length_bytes, seconds=stopwatch() - started)
            sharers = min(self._workers.settings.restore_threads, len(segment.runs))
            work = _SegmentWork(segment, memoryview(data), sharers, partial(self._finish_segment, segment))
            claim.is_handed_over = True
            for _ in range(sharers):
                self._workers.submit_restore(lane, partial(self._open_runs, lane, work))
        except (Damaged, StorageError) as error:
            if not self._may_collect(error):
                raise
            self._note(error, self._reader.pack_name(segment.pack_no), segment.blocks)

    # --- on any thread

    def _arrange(self, ids: bytes, first: int) -> Window:
        is_zero, wanted = wanted_ids(ids)
        places = self._reader.locate(wanted)
        return arrange(ids, is_zero, places, first_block=first, most_bytes=self._segment_bytes, most_run=self._most_run)

    def _finish_segment(self, segment: Segment) -> None:
        self._workers.budget.release(segment.length_bytes)
        self._loop.call_soon_threadsafe(self._gate.release)

    def _open_runs(self, lane: Lane, work: _SegmentWork, scratch: Scratch) -> None:
        try:
            while not lane.is_stopped and (run := work.take()) is not None:
                self._open_run(work, run, scratch)
        finally:
            work.leave()

    def _open_run(self, work: _SegmentWork, run: tuple[Record, ...], scratch: Scratch) -> None:
        out, end = scratch.take(self._bytes_of(run[0].blocks[0], len(run))), 0
        for record in run:
            start, end = end, end + self._bytes_of(record.blocks[0], 1)
            if not self._open_record(work, record, out[start:end]):
                return
        for block in run[0].blocks:
            self._write(block, out)

    def _open_record(self, work: _SegmentWork, record: Record, out: memoryview) -> bool:
        """Fill ``out`` with the record's verified bytes. False: it is damaged, which is noted."""
        segment = work.segment
        start = record.offset_bytes - segment.offset_bytes
        started = stopwatch()
        try:
            self._reader.open_block(
                work.data[start : start + record.length_bytes],
                pack_no=segment.pack_no,
                offset=record.offset_bytes,
                id=record.id,
                plain_bytes=len(out),
                out=out,
            )
        except Damaged as error:
            if not self._may_collect(error):
                raise
            self._note(error, self._reader.pack_name(segment.pack_no), record.blocks)
            return False
        self._meter.add("opened", size_bytes=len(out), seconds=stopwatch() - started)
        return True

    def _write(self, first: int, plain: memoryview) -> None:
        if self._target is not None:
            started = stopwatch()
            self._target.write_from(plain, first * self._image.block_bytes)
            self._meter.add("written", size_bytes=len(plain), seconds=stopwatch() - started)
        self._meter.advance(len(plain))

    def _write_zeroes(self, lane: Lane, first: int, blocks: int, _: Scratch) -> None:
        try:
            for start in range(first, first + blocks, self._most_run):
                if lane.is_stopped:
                    return
                run = min(self._most_run, first + blocks - start)
                size = self._bytes_of(start, run)
                self._write(start, self._zeroes[:size])
                self._meter.add("zero", items=run, size_bytes=size)
        finally:
            self._loop.call_soon_threadsafe(self._gate.release)

    def _read_back(self, block: int, wanted: bytes, scratch: Scratch) -> None:
        assert self._target is not None
        size = self._bytes_of(block, 1)
        view = scratch.take(size)
        self._target.read_into(view, block * self._image.block_bytes)
        if self._reader.block_id(view) != wanted:
            offset = block * self._image.block_bytes
            raise DeviceFault(
                f"{self._target.name} does not hold what was written: {size} bytes at {offset}",
                remedy="Do not use this disk; look at the storage below it and restore to another one.",
                offset_bytes=offset,
                length_bytes=size,
            )
        self._meter.add("readback", size_bytes=size)

    def _bytes_of(self, first: int, blocks: int) -> int:
        image = self._image
        return min((first + blocks) * image.block_bytes, image.size_bytes) - first * image.block_bytes

    # --- damage

    def _may_collect(self, error: Exception) -> bool:
        """Whether it tells of a damaged object, and damage is what we are here to find."""
        return self._target is None and not isinstance(error, StoreUnreachable | StoreDenied | StoreFull)

    def _lose(self, blocks: list[int]) -> None:
        if not blocks:
            return
        error = Damaged(
            f"{len(blocks)} blocks of the disk are in no pack of the repository",
            remedy="Restore another point; run verify to see all that is lost.",
            object="index",
        )
        if self._target is not None:
            raise error
        self._note(error, "index", blocks)

    def _note(self, error: Damaged | StorageError, object_name: str, blocks: Iterable[int]) -> None:
        name = str(error.facts.get("object", object_name))
        with self._lock:
            damage = self.damage.setdefault(name, Damage(name, error.message))
            for block in blocks:
                size = self._bytes_of(block, 1)
                damage.lost_bytes += size
                if len(damage.ranges) < _RANGES_KEPT:
                    damage.ranges.append((block * self._image.block_bytes, size))
