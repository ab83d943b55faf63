"""One writer: blocks in, a restore point out.

Blocks come on compute threads and never touch the event loop; whole packs, index deltas,
heartbeats and the manifest are the loop's. Nothing is reported stored before it is durable.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from blake3 import blake3

from mover.errors import MoverError, ObjectExists
from mover.model.point import ZERO_ID, DiskImage, RestorePoint
from mover.repository import layout
from mover.repository.blockmap import MapReader
from mover.repository.deltas import INDEX_EVERY_S, Deltas
from mover.repository.hold import Hold, ended, interrupted
from mover.repository.layout import FrameKind
from mover.repository.making import Pack
from mover.repository.manifest import seal_manifest
from mover.repository.mapbuilder import MapBuilder
from mover.repository.points import judge
from mover.repository.records import Records
from mover.repository.together import first_of
from mover.repository.tools import Tools
from mover.repository.zero import is_zero

BEATS_MISSED_MAX = 10
"""Heartbeats that the store may refuse in a row before the session gives up."""


class StoredBlock(NamedTuple):
    """What became of a block. stored_bytes: of the sealed record, 0 unless it is new."""

    id: bytes
    kind: Literal["zero", "known", "new"]
    stored_bytes: int


_ZERO = StoredBlock(ZERO_ID, "zero", 0)


class Session:
    """See the module. Made by ``Repository.open_session``, on the loop that runs it."""

    def __init__(
        self,
        tools: Tools,
        hold: Hold,
        records: Records,
        *,
        dead_packs: frozenset[bytes],
        committed: Sequence[str] = (),
        next_index: int = 0,
    ) -> None:
        self.id = hold.record.id
        self.packs: set[Pack] = set()
        self.dead_packs = dead_packs
        self._tools, self._hold, self._records = tools, hold, records
        self._packer, self._codecs, self._index = tools.packer, tools.codecs, tools.local_index
        self._block_key, self._node_key = tools.secrets.block_key(), tools.secrets.node_key()
        self._points = frozenset(hold.record.points)
        self._committed = set(committed)
        self._deltas = Deltas(tools, self, self.id, next_index)
        self._error: BaseException | None = None
        self._storing: dict[int, bytes] = {}
        """What each thread is about to store; whoever has the same block is told that it is known."""
        self._flushes = 0
        """How many wait for the former to be stored."""
        self._has_ended = False
        self._is_interrupted = False
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()

    # --- compute threads ---

    def store_block(self, data: memoryview) -> StoredBlock:
        """Store a block unless it is zero or known. Any worker thread; may wait for an upload.

        data: contiguous bytes that do not change meanwhile; not kept. Raises what ended the session.
        """
        if is_zero(data):
            return _ZERO
        return self._put(blake3(data, key=self._block_key).digest(), data, FrameKind.BLOCK)

    def block_id(self, data: memoryview) -> bytes:
        """The id that these bytes would have; ``ZERO_ID`` for zeroes. Any thread."""
        return ZERO_ID if is_zero(data) else blake3(data, key=self._block_key).digest()

    def store_node(self, content: bytes) -> bytes:
        """Store a map node; its id. Any worker thread."""
        node_id = blake3(content, key=self._node_key).digest()
        return self._put(node_id, memoryview(content), FrameKind.NODE).id

    def _put(self, record_id: bytes, data: memoryview, kind: FrameKind) -> StoredBlock:
        if self._error is not None:
            self.check()
        known = StoredBlock(record_id, "known", 0)
        if self._packer.knows(self, record_id) or self._index.has(record_id, self.dead_packs):
            return known
        thread = threading.get_ident()
        self._storing[thread] = record_id
        try:
            return self._store(record_id, data, kind) if self._packer.claim(self, record_id) else known
        finally:
            del self._storing[thread]
            if self._flushes:
                self.wake()

    def _store(self, record_id: bytes, data: memoryview, kind: FrameKind) -> StoredBlock:
        """Store what this thread has claimed: others were told meanwhile that it is known."""
        packer = self._packer
        try:
            codec, packed = self._codecs.pack(data)
            stored = packer.write(self, record_id, packed, codec=codec, plain_bytes=len(data), kind=kind)
        except BaseException as error:
            packer.unclaim(self, record_id)
            self.fail(error)
            raise
        return StoredBlock(record_id, "new", stored)

    # --- maps ---

    def new_map(
        self,
        *,
        size_bytes: int,
        block_bytes: int,
        base: MapReader | None = None,
        inherit: bool = False,
        fan_out: int = layout.FAN_OUT,
    ) -> MapBuilder:
        """The map of a disk that is about to be read. inherit: untouched blocks are those of ``base``."""
        return MapBuilder(
            size_bytes=size_bytes,
            block_bytes=block_bytes,
            base=base,
            inherit=inherit,
            store_node=self.store_node,
            scratch_dir=self._tools.scratch_dir,
            fan_out=fan_out,
        )

    async def open_map(self, image: DiskImage) -> MapReader:
        """The map of a former point's image, as a base. Raises ValueError for an excluded disk."""
        return self._records.open_map(image)

    async def leans_on_suspects(self, image: DiskImage) -> bool:
        """Whether a former image needs packs that are marked as damaged: what inherits from it would need them too."""
        return await self._records.leans_on_suspects(image)

    # --- the loop's part ---

    async def run(self) -> None:
        """Upload, index and beat until ``stop``; raises what ended the session. One task of the caller's group."""
        try:
            async with asyncio.TaskGroup() as group:
                uploads = [group.create_task(self._upload_on()) for _ in range(self._tools.uploads)]
                beats = group.create_task(self._beat_on())
                await asyncio.wait(uploads)
                beats.cancel()
        except BaseExceptionGroup as errors:
            self.fail(first_of(errors))
        except asyncio.CancelledError:
            self._leave(interrupted(self.id))
            raise
        if not self._has_ended and not self._is_interrupted:
            if self._error is not None:
                self._leave(self._error)
            self.check()

    def stop(self) -> None:
        """Let ``run`` return once the uploads in flight are through."""
        self._stopped.set()
        self._changed.set()

    def interrupt(self) -> None:
        """Give up, by who is cancelled: threads that wait for room hear of it, ``run`` returns in silence."""
        self._is_interrupted = True
        self._leave(interrupted(self.id))

    async def flush(self) -> None:
        """All that was stored or found so far is durable, and its index too. Raises what ended the session."""
        self._flushes += 1
        try:
            promised = self._storing.copy()
            await self._until(lambda: all(self._storing.get(thread) != block for thread, block in promised.items()))
        finally:
            self._flushes -= 1
        packs = self._packer.close_for(self)
        await self._until(lambda: not any(pack.is_on_its_way for pack in packs))
        await self._deltas.write()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait for it, and upload meanwhile."""
        while True:
            self._changed.clear()
            self.check()
            if is_so():
                return
            if not await self._upload_one():
                await self._changed.wait()

    async def commit(self, point: RestorePoint) -> None:
        """Flush, then list the point. Doing it again is harmless. Raises PointConflict, SessionVoided."""
        name = layout.point_name(point.vm_uuid, point.id)
        if (point.vm_uuid, point.id) not in self._points or point.session_id != self.id:
            raise ValueError(f"{name} was not announced by session {self.id}")
        if name in self._committed:
            return
        await self.flush()
        try:
            await self._tools.store.create(name, seal_manifest(self._tools.secrets, point))
        except ObjectExists:
            # Our own put whose answer was lost has another salt: the session id tells.
            judge(name, await self._tools.store.get(name), self._tools.secrets, self.id)
        self._committed.add(name)

    async def end(self) -> None:
        """Hold nothing any more and remove the session object."""
        self._has_ended = True
        self.stop()
        self._leave(ended(self.id))
        await self._hold.end()

    # --- what the packer tells ---

    def check(self) -> None:
        """Raise what ended the session."""
        if self._error is not None:
            raise self._error

    def fail(self, error: BaseException) -> None:
        """End it with this error, unless it ended before. Any thread."""
        if self._error is None:
            self._error = error
        self.wake()

    def wake(self) -> None:
        """Look again. Any thread."""
        if threading.get_ident() == self._loop_thread:
            self._changed.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def _leave(self, error: BaseException) -> None:
        self.fail(error)
        self._packer.leave(self)
        self._packer.wake_all()

    # --- uploads, heartbeat ---

    async def _upload_on(self) -> None:
        while self._error is None:
            self._changed.clear()
            if await self._upload_one():
                if self._deltas.is_due():
                    await self._deltas.write()
            elif self._stopped.is_set():
                return
            else:
                await self._changed.wait()

    async def _upload_one(self) -> bool:
        """Upload a full pack, whoever filled it; False when there is none."""
        pack = self._packer.take()
        if pack is None:
            return False
        try:
            await self._tools.store.create(pack.name, pack.parts)
        except MoverError as error:
            self._packer.failed(pack, error)
        except BaseException:
            self._packer.give_back(pack)
            raise
        else:
            self._packer.done(pack)
        return True

    async def _beat_on(self) -> None:
        missed = 0
        while True:
            await self._tools.clock.sleep(min(self._tools.heartbeat_s, INDEX_EVERY_S))
            try:
                await self._hold.beat()
                missed = 0
                if self._deltas.is_due():
                    await self._deltas.write()
            except MoverError as error:
                missed += 1
                if not error.retryable or missed > BEATS_MISSED_MAX:
                    raise
