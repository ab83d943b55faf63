"""A repository in memory with the pipeline's ports and nothing else: ids are BLAKE2b, packs are bytearrays.

Counts calls, fails the n-th of them on demand, and can hold a thread inside a call.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mover.errors import Damaged, ObjectMissing
from mover.model.machine import Slot
from mover.model.point import ID_BYTES, ZERO_ID, DiskImage, ReadMode

PACK_BYTES = 24 * 1024


def id_of(data: bytes | memoryview) -> bytes:
    plain = bytes(data)
    return hashlib.blake2b(plain, digest_size=ID_BYTES).digest() if plain.strip(b"\0") else ZERO_ID


@dataclass(frozen=True)
class Stored:
    id: bytes
    kind: str
    stored_bytes: int


@dataclass
class PlainMap:
    """A disk's ids, whole."""

    ids_now: bytearray
    seen: set[int] = field(default_factory=set)
    lock: Any = field(default_factory=threading.Lock)
    is_closed: bool = False

    def put(self, first_block: int, ids: bytes) -> None:
        with self.lock:
            blocks = set(range(first_block, first_block + len(ids) // ID_BYTES))
            assert not blocks & self.seen, "a block was put twice"
            self.seen |= blocks
            assert (first_block * ID_BYTES + len(ids)) <= len(self.ids_now)
            self.ids_now[first_block * ID_BYTES : first_block * ID_BYTES + len(ids)] = ids

    def put_zero(self, first_block: int, count: int) -> None:
        self.put(first_block, ZERO_ID * count)

    def finish(self) -> bytes:
        return bytes(self.ids_now)

    def close(self) -> None:
        self.is_closed = True

    async def ids(self, first_block: int, count: int) -> bytes:
        return bytes(self.ids_now[first_block * ID_BYTES : (first_block + count) * ID_BYTES])


class Places:
    def __init__(self, rows: list[tuple[int, int, int]]) -> None:
        table = np.array(rows, np.int64).reshape(-1, 3)
        self.pack_no, self.offset_bytes, self.stored_bytes = table[:, 0], table[:, 1], table[:, 2]


class PlainRepository:
    """Session and reading session in one."""

    def __init__(self, fault: Callable[[str], None] = lambda _: None) -> None:
        self.packs: list[bytearray] = [bytearray()]
        self.where: dict[bytes, tuple[int, int, int]] = {}
        self.calls: dict[str, int] = {}
        self.fault = fault
        self.lock = threading.Lock()
        self.fetched: list[tuple[int, int, int]] = []
        self.maps: list[PlainMap] = []

    def _called(self, name: str) -> None:
        with self.lock:
            self.calls[name] = self.calls.get(name, 0) + 1
        self.fault(name)

    def store_block(self, data: memoryview) -> Stored:
        self._called("store_block")
        block_id = id_of(data)
        if block_id == ZERO_ID:
            return Stored(block_id, "zero", 0)
        with self.lock:
            if block_id in self.where:
                return Stored(block_id, "known", 0)
            if len(self.packs[-1]) + len(data) > PACK_BYTES:
                self.packs.append(bytearray())
            pack = self.packs[-1]
            self.where[block_id] = (len(self.packs) - 1, len(pack), len(data))
            pack += data
        return Stored(block_id, "new", len(data))

    def block_id(self, data: memoryview) -> bytes:
        self._called("block_id")
        return id_of(data)

    def interrupt(self) -> None:
        self._called("interrupt")

    def new_map(self, *, size_bytes: int, block_bytes: int, base: PlainMap | None, inherit: bool) -> PlainMap:
        ids = bytearray(-(-size_bytes // block_bytes) * ID_BYTES)
        if inherit and base is not None:
            ids[: len(base.ids_now)] = base.ids_now
        self.maps.append(PlainMap(ids))
        return self.maps[-1]

    async def open_map(self, image: DiskImage) -> PlainMap:
        self._called("open_map")
        return PlainMap(bytearray(image.node_ids))

    def locate(self, ids: bytes) -> Places:
        self._called("locate")
        return Places([self.where.get(ids[i : i + ID_BYTES], (-1, 0, 0)) for i in range(0, len(ids), ID_BYTES)])

    def pack_name(self, pack_no: int) -> str:
        return f"packs/{pack_no}"

    async def fetch(self, pack_no: int, *, offset_bytes: int, length_bytes: int) -> bytes:
        self._called("fetch")
        if not self.packs[pack_no]:
            raise ObjectMissing(f"{self.pack_name(pack_no)} is gone", remedy="none", object=self.pack_name(pack_no))
        self.fetched.append((pack_no, offset_bytes, length_bytes))
        return bytes(self.packs[pack_no][offset_bytes : offset_bytes + length_bytes])

    def open_block(
        self, sealed: memoryview, *, pack_no: int, offset: int, id: bytes, plain_bytes: int, out: memoryview | None
    ) -> memoryview:
        self._called("open_block")
        if id_of(sealed) != id or len(sealed) != plain_bytes:
            raise Damaged(f"record at {offset}", remedy="none", object=self.pack_name(pack_no))
        assert out is not None
        out[:] = sealed
        return out

    def image(self, node_ids: bytes, *, size_bytes: int, block_bytes: int) -> DiskImage:
        return DiskImage(
            device_uuid="d",
            slot=Slot("scsi", 0),
            size_bytes=size_bytes,
            mode=ReadMode.FULL,
            reason="",
            block_bytes=block_bytes,
            fan_out=16,
            node_ids=node_ids,
        )


class MemoryDisk:
    """A device in memory; records what was touched, fails on demand."""

    def __init__(self, content: bytes | bytearray, fault: Callable[[str, int], None] = lambda *_: None) -> None:
        self.content = bytearray(content)
        self.size_bytes = len(content)
        self.name = "memory disk"
        self.sector_bytes = 512
        self.fault = fault
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self.is_flushed = False
        self.inside = 0
        self.lock = threading.Lock()

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        self._count(+1)
        try:
            self.fault("read", offset_bytes)
            self.reads.append((offset_bytes, len(buffer)))
            buffer[:] = self.content[offset_bytes : offset_bytes + len(buffer)]
        finally:
            self._count(-1)

    def write_from(self, buffer: memoryview, offset_bytes: int) -> None:
        self._count(+1)
        try:
            self.fault("write", offset_bytes)
            self.writes.append((offset_bytes, len(buffer)))
            self.content[offset_bytes : offset_bytes + len(buffer)] = buffer
        finally:
            self._count(-1)

    def flush(self) -> None:
        self.fault("flush", 0)
        self.is_flushed = True

    def close(self) -> None:
        assert self.inside == 0, "closed while a thread uses it"

    def _count(self, step: int) -> None:
        with self.lock:
            self.inside += step
