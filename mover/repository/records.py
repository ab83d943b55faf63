"""Stored records by their ids: found in the index, read in few requests, opened, verified."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from mover.errors import Damaged, StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.model.point import DiskImage
from mover.repository import layout
from mover.repository.blockmap import MapReader
from mover.repository.index import IndexView, PlaceState
from mover.repository.layout import FrameKind
from mover.repository.pack import RecordOpener
from mover.repository.seal import Sealer, damaged
from mover.repository.together import side_by_side
from mover.storage.protocol import Bytes, Store

Widen = Callable[[IndexView], Awaitable[IndexView]]

SEALERS_KEPT = 256
"""Packs whose keys are at hand; making one again costs a few microseconds."""
READ_GAP_BYTES = 16 << 10
"""Neighbouring records are read together over a gap of this."""
READ_MOST_BYTES = 4 << 20
"""Longest single read of several records."""
READS_IN_FLIGHT = 8
_NODES_ASKED = 8
"""Nodes whose blocks are looked up at a time on the loop: about a millisecond."""


class _Wanted(NamedTuple):
    at: int
    record_id: bytes
    pack_no: int
    offset: int
    stored: int
    plain: int


class Records:
    """Opens records by the index of one moment. Any thread may open; reading is the loop's."""

    def __init__(self, store: Store, opener: RecordOpener, view: IndexView, *, widen: Widen | None = None) -> None:
        """widen: asked once for more, where a map names what the view lacks."""
        self._store, self._opener, self.view = store, opener, view
        self._widen, self._widening = widen, asyncio.Lock()
        self._sealers: OrderedDict[int, Sealer] = OrderedDict()
        self._lock = threading.Lock()

    def pack_name(self, pack_no: int) -> str:
        """The object that holds the records of a pack number."""
        return layout.pack_name(self.view.pack(pack_no).pack_id)

    def open(
        self,
        sealed: memoryview,
        *,
        pack_no: int,
        offset: int,
        record_id: bytes,
        plain_bytes: int,
        kind: FrameKind,
        out: memoryview | None = None,
    ) -> memoryview:
        """See RecordOpener.open."""
        return self._opener.open(
            self._sealer(pack_no),
            sealed,
            offset=offset,
            record_id=record_id,
            plain_bytes=plain_bytes,
            kind=kind,
            out=out,
        )

    async def fetch(self, pack_no: int, *, offset_bytes: int, length_bytes: int) -> Bytes:
        """Part of a pack as stored, unverified. Raises ObjectMissing, StorageError."""
        return await self._store.get_range(self.pack_name(pack_no), offset_bytes, length_bytes)

    def block_id(self, data: memoryview) -> bytes:
        """The id that these bytes would have. Any thread."""
        return self._opener.block_id(data)

    def open_map(self, image: DiskImage) -> MapReader:
        """The map of an image; on the loop that will load its nodes."""
        return MapReader(image, self.load_nodes)

    async def leans_on_suspects(self, image: DiskImage) -> bool:
        """Whether some node or block of an image is in suspect packs only, or in none that is known or whole.

        Raises what tells of the store as a whole.
        """
        if not self.view.suspects:
            return False
        if self._leans(image.node_ids):
            return True
        block_map, step = self.open_map(image), _NODES_ASKED * image.fan_out
        for first in range(0, image.block_count, step):
            try:
                ids = await block_map.ids(first, min(step, image.block_count - first))
            except (Damaged, StorageError) as error:
                if isinstance(error, StoreUnreachable | StoreDenied | StoreFull):
                    raise
                return True
            if self._leans(ids):
                return True
        return False

    def _leans(self, ids: bytes) -> bool:
        places = self.view.locate(ids)
        is_lost = (places.state == PlaceState.MISSING) | (places.state == PlaceState.LOST)
        return bool(is_lost.any() or self.view.is_suspect(places).any())

    async def load_nodes(self, wanted: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """(node id, plain bytes) → contents, in order. Raises Damaged, StorageError."""
        node_ids = b"".join(node_id for node_id, _ in wanted)
        await self._ensure(node_ids)
        places = self.view.locate(node_ids)
        found: list[bytes] = [b""] * len(wanted)
        rows = []
        for at, (node_id, plain) in enumerate(wanted):
            if places.state[at] != PlaceState.STORED:
                raise damaged(f"node {node_id.hex()}", "no pack that the index knows holds it", id=node_id.hex())
            pack_no, offset, stored = (int(column[at]) for column in places[:3])
            rows.append(_Wanted(at, node_id, pack_no, offset, stored, plain))
        await side_by_side(partial(self._load_run, found), _runs(rows), at_once=READS_IN_FLIGHT)
        await self._ensure(b"".join(found))
        return found

    async def _ensure(self, ids: bytes) -> None:
        """Look further, once, for records that the view does not know: an index object may be lost."""
        if self._widen is None or not (self.view.locate(ids).state == PlaceState.MISSING).any():
            return
        async with self._widening:
            widen, self._widen = self._widen, None
            if widen is not None:
                self.view = await widen(self.view)

    async def _load_run(self, found: list[bytes], run: Sequence[_Wanted]) -> None:
        begin, end = run[0].offset, max(row.offset + row.stored for row in run)
        content = await self.fetch(run[0].pack_no, offset_bytes=begin, length_bytes=end - begin)
        view = memoryview(content)
        for row in run:
            sealed = view[row.offset - begin : row.offset - begin + row.stored]
            plain = self.open(
                sealed,
                pack_no=row.pack_no,
                offset=row.offset,
                record_id=row.record_id,
                plain_bytes=row.plain,
                kind=FrameKind.NODE,
            )
            found[row.at] = bytes(plain)

    def _sealer(self, pack_no: int) -> Sealer:
        with self._lock:
            found = self._sealers.get(pack_no)
            if found is None:
                place = self.view.pack(pack_no)
                found = self._sealers[pack_no] = self._opener.sealer(place.pack_id, place.key_id)
                if len(self._sealers) > SEALERS_KEPT:
                    self._sealers.popitem(last=False)
            return found


def _runs(rows: Sequence[_Wanted]) -> list[list[_Wanted]]:
    """Grouped by what one request can read."""
    runs: list[list[_Wanted]] = []
    for row in sorted(rows, key=lambda row: (row.pack_no, row.offset)):
        if runs and runs[-1][0].pack_no == row.pack_no:
            first, last = runs[-1][0], runs[-1][-1]
            gap = row.offset - (last.offset + last.stored)
            if gap <= READ_GAP_BYTES and row.offset + row.stored - first.offset <= READ_MOST_BYTES:
                runs[-1].append(row)
                continue
        runs.append([row])
    return runs
