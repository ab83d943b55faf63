"""One reader: holds what it reads against collection, and opens blocks for worker threads."""

from __future__ import annotations

import asyncio

from mover.clock import Clock
from mover.errors import MoverError, SessionVoided
from mover.model.point import DiskImage
from mover.repository.blockmap import MapReader
from mover.repository.hold import Hold
from mover.repository.index import BlockPlaces, IndexView
from mover.repository.layout import FrameKind
from mover.repository.records import Records
from mover.repository.together import first_of
from mover.storage.protocol import Bytes


class ReadSession:
    """See the module. Made by ``Repository.open_reader``."""

    def __init__(self, records: Records, hold: Hold | None, clock: Clock, heartbeat_s: float) -> None:
        """hold: None where the store takes no more: what this reader needs is then not held."""
        self._records, self._hold, self._clock, self._heartbeat_s = records, hold, clock, heartbeat_s
        self._stopped = asyncio.Event()

    async def open_map(self, image: DiskImage) -> MapReader:
        """The map of an image. Raises ValueError for an excluded disk."""
        return self._records.open_map(image)

    def locate(self, ids: bytes | memoryview) -> BlockPlaces:
        """Where the blocks of these ids (32 bytes each) lie. Any thread."""
        return self._records.view.locate(ids)

    async def leans_on_suspects(self, image: DiskImage) -> bool:
        """Whether an image needs packs that are marked as damaged."""
        return await self._records.leans_on_suspects(image)

    @property
    def view(self) -> IndexView:
        """The index as this reader sees it."""
        return self._records.view

    def pack_name(self, pack_no: int) -> str:
        """The object to read records of this pack number from."""
        return self._records.pack_name(pack_no)

    async def fetch(self, pack_no: int, *, offset_bytes: int, length_bytes: int) -> Bytes:
        """Part of a pack as stored, unverified. Raises ObjectMissing, StorageError."""
        return await self._records.fetch(pack_no, offset_bytes=offset_bytes, length_bytes=length_bytes)

    def block_id(self, data: memoryview) -> bytes:
        """The id that these bytes would have; ``ZERO_ID`` for zeroes. Any thread."""
        return self._records.block_id(data)

    def open_block(
        self,
        sealed: memoryview,
        *,
        pack_no: int,
        offset: int,
        id: bytes,
        plain_bytes: int,
        out: memoryview | None = None,
    ) -> memoryview:
        """The verified plain bytes of a record, in ``out`` if given. Any thread.

        sealed: exactly the ``stored_bytes`` at ``offset`` of that pack. Raises Damaged, which names
        the pack; ``out`` may then hold garbage. Without ``out`` the result may be a view of ``sealed``.
        """
        return self._records.open(
            sealed,
            pack_no=pack_no,
            offset=offset,
            record_id=id,
            plain_bytes=plain_bytes,
            kind=FrameKind.BLOCK,
            out=out,
        )

    async def run(self) -> None:
        """Keep the session alive until ``stop`` or ``end``: a task beside any longer read."""
        if self._hold is None:
            return
        try:
            async with asyncio.TaskGroup() as group:
                beats = group.create_task(self._beat_on(self._hold))
                await self._stopped.wait()
                beats.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None

    def stop(self) -> None:
        """Let ``run`` return."""
        self._stopped.set()

    async def end(self) -> None:
        """Hold nothing any more."""
        self.stop()
        if self._hold is not None:
            await self._hold.end()

    async def _beat_on(self, hold: Hold) -> None:
        while True:
            await self._clock.sleep(self._heartbeat_s)
            try:
                await hold.beat()
            except SessionVoided:
                raise
            except MoverError:
                # A store that is full or away for a while can still be read.
                continue
