"""One pack: filling it, and reading it from its own end or record by record."""

from __future__ import annotations

import mmap
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from mover.clock import secret_bytes
from mover.model.point import ZERO_ID
from mover.repository import layout
from mover.repository.codec import Codecs, PackingError
from mover.repository.keys import Secrets
from mover.repository.layout import Codec, FrameKind, ObjectKind
from mover.repository.rows import TABLE_ROW_DTYPE
from mover.repository.seal import (
    FRAME_OVERHEAD_BYTES,
    Sealer,
    damaged,
    envelope_bytes,
    parse_envelope,
    parse_frame,
)
from mover.repository.zero import is_zero
from mover.storage.protocol import Store

_HEAD_BYTES = layout.ENVELOPE.size
_END_BYTES = FRAME_OVERHEAD_BYTES + layout.FOOTER.size
TAIL_READ_BYTES = 64 << 10
"""Holds footer and trailer of a pack of up to 1,300 records: one read for nearly all packs."""

Table = NDArray[Any]
"""Rows of ``TABLE_ROW_DTYPE``."""


class PackBuilder:
    """A pack in memory. Places are given out one by one; filling them may happen at once."""

    def __init__(self, secrets: Secrets, *, memory: mmap.mmap, pack_id: bytes | None = None) -> None:
        """memory: as long as the pack may become; the builder's alone. pack_id: for tests only."""
        self.pack_id = pack_id or secret_bytes(layout.PACK_ID_BYTES)
        self.key_id = secrets.key_id
        self.name = layout.pack_name(self.pack_id)
        self.sealer = Sealer(secrets, ObjectKind.PACK, self.name, self.pack_id)
        self.table = bytearray()
        self.memory = memory
        self._capacity_bytes = len(memory)
        self._memory = memoryview(memory)
        self._memory[:_HEAD_BYTES] = envelope_bytes(secrets, ObjectKind.PACK, self.pack_id)
        self._end = _HEAD_BYTES

    @property
    def records(self) -> int:
        return len(self.table) // layout.TABLE_ROW.size

    def has_room(self, stored_bytes: int) -> bool:
        """Whether one more record of that size (frame included) fits, with its row in the trailer."""
        table_bytes = len(self.table) + layout.TABLE_ROW.size
        end = self._end + stored_bytes + table_bytes + _END_BYTES
        return end <= self._capacity_bytes and self.records < layout.RECORDS_PER_PACK_MAX

    def place(
        self, block_id: bytes, stored_bytes: int, plain_bytes: int, codec: Codec, kind: FrameKind
    ) -> tuple[int, memoryview]:
        """(record number, its memory). Not for two threads at once; what is returned is the caller's alone."""
        number, offset = self.records, self._end
        self.table += layout.TABLE_ROW.pack(block_id, offset, stored_bytes, plain_bytes, codec, kind, 0)
        self._end += stored_bytes
        return number, self._memory[offset : self._end]

    def finish(self) -> list[bytes | memoryview]:
        """The parts of the whole object, in order; the same ones however often they are sent."""
        plain = bytes(self.table)
        trailer = bytearray(len(plain) + FRAME_OVERHEAD_BYTES)
        self.sealer.seal_into(
            memoryview(trailer),
            plain,
            number=layout.TRAILER_NUMBER,
            kind=FrameKind.TRAILER,
            codec=Codec.RAW,
            plain_bytes=len(plain),
        )
        self.pack_bytes = self._end + len(trailer) + layout.FOOTER.size
        footer = layout.FOOTER.pack(layout.END_MAGIC, layout.VERSION, 0, self.records, len(trailer), 0, self.pack_bytes)
        return [self._memory[: self._end].toreadonly(), bytes(trailer) + footer]


def pack_bytes_for(stored_bytes: int) -> int:
    """The size of a pack that holds one record of ``stored_bytes`` and nothing else."""
    return _HEAD_BYTES + stored_bytes + layout.TABLE_ROW.size + _END_BYTES


# --- reading ------------------------------------------------------------------------


class Contents(NamedTuple):
    """What a pack says about itself."""

    pack_id: bytes
    key_id: bytes
    pack_bytes: int
    table: Table


async def read_contents(store: Store, secrets: Secrets, pack_id: bytes, pack_bytes: int) -> Contents:
    """Header, footer and trailer of a stored pack, all checked. Raises Damaged, ObjectMissing."""
    name = layout.pack_name(pack_id)
    if pack_bytes < _HEAD_BYTES + _END_BYTES:
        raise damaged(name, f"{pack_bytes} bytes are too few for a pack")
    head = bytes(await store.get_range(name, 0, _HEAD_BYTES))
    reach = min(pack_bytes, TAIL_READ_BYTES)
    tail = bytes(await store.get_range(name, pack_bytes - reach, reach))
    trailer_bytes = parse_footer(tail, name, pack_bytes)[1]
    wanted = trailer_bytes + layout.FOOTER.size
    if wanted > reach:
        tail = bytes(await store.get_range(name, pack_bytes - wanted, wanted))
    return open_contents(secrets, pack_id, pack_bytes, head, tail[-wanted:])


def parse_footer(tail: bytes, name: str, pack_bytes: int) -> tuple[int, int]:
    """(records, trailer bytes) from the last bytes of a pack. Raises Damaged."""
    magic, version, reserved, records, trailer_bytes, reserved_too, stated = layout.FOOTER.unpack(
        tail[-layout.FOOTER.size :]
    )
    if magic != layout.END_MAGIC or reserved or reserved_too or not 0 < version <= layout.VERSION:
        raise damaged(name, "it does not end as a pack")
    if stated != pack_bytes or records > layout.RECORDS_PER_PACK_MAX:
        raise damaged(name, f"its footer states {stated} bytes, it has {pack_bytes}")
    if trailer_bytes != records * layout.TABLE_ROW.size + FRAME_OVERHEAD_BYTES:
        raise damaged(name, "its footer contradicts itself")
    if trailer_bytes > pack_bytes - _HEAD_BYTES - layout.FOOTER.size:
        raise damaged(name, "its trailer does not fit into it")
    return records, trailer_bytes


def open_contents(secrets: Secrets, pack_id: bytes, pack_bytes: int, head: bytes, tail: bytes) -> Contents:
    """head: the envelope; tail: trailer and footer. Raises Damaged."""
    name = layout.pack_name(pack_id)
    envelope = parse_envelope(head, name, secrets, (ObjectKind.PACK,))
    if envelope.salt != pack_id:
        raise damaged(name, "its header names another pack")
    records, trailer_bytes = parse_footer(tail, name, pack_bytes)
    sealed = memoryview(tail)[:trailer_bytes]
    frame = parse_frame(sealed, name)
    expected = (layout.TRAILER_NUMBER, FrameKind.TRAILER, Codec.RAW, records * layout.TABLE_ROW.size)
    found = (frame.number, frame.kind, frame.codec, frame.plain_bytes)
    if found != expected or frame.sealed_bytes + layout.FRAME.size != trailer_bytes:
        raise damaged(name, "its trailer is not where it should be")
    plain = Sealer(secrets, ObjectKind.PACK, name, pack_id, envelope.key_id).open(sealed, frame)
    table = np.frombuffer(bytes(plain), TABLE_ROW_DTYPE)
    ends = _HEAD_BYTES + np.cumsum(table["stored"], dtype=np.int64)
    starts = np.concatenate([[_HEAD_BYTES], ends])
    if (starts[:-1] != table["offset"]).any() or starts[-1] + trailer_bytes + layout.FOOTER.size != pack_bytes:
        raise damaged(name, "its table does not match its size")
    return Contents(pack_id, envelope.key_id, pack_bytes, table)


class RecordOpener:
    """Opens records of any pack; for any number of threads."""

    def __init__(self, secrets: Secrets, codecs: Codecs) -> None:
        self._secrets, self._codecs = secrets, codecs
        self._id_keys = {FrameKind.BLOCK: secrets.block_key(), FrameKind.NODE: secrets.node_key()}

    def block_id(self, data: memoryview) -> bytes:
        """The id that these bytes would have; ``ZERO_ID`` for zeroes."""
        return ZERO_ID if is_zero(data) else blake3(data, key=self._id_keys[FrameKind.BLOCK]).digest()

    def sealer(self, pack_id: bytes, key_id: bytes) -> Sealer:
        """What opens the records of one pack; worth keeping while a pack is read."""
        return Sealer(self._secrets, ObjectKind.PACK, layout.pack_name(pack_id), pack_id, key_id)

    def open(
        self,
        sealer: Sealer,
        sealed: memoryview,
        *,
        offset: int,
        record_id: bytes,
        plain_bytes: int,
        kind: FrameKind = FrameKind.BLOCK,
        out: memoryview | None = None,
    ) -> memoryview:
        """The plain bytes, in ``out`` if given. Raises Damaged: nothing unverified is returned.

        ``out`` may hold garbage after an error. offset: for the message only.
        """
        where = f"its record at {offset}"
        frame = parse_frame(sealed, sealer.name)
        if frame.kind is not kind or frame.plain_bytes != plain_bytes or plain_bytes > layout.RECORD_PLAIN_BYTES_MAX:
            raise damaged(sealer.name, f"{where} is not the one that was stored there", id=record_id.hex())
        packed = sealer.open(sealed, frame, record_id)
        try:
            plain = self._codecs.unpack(frame.codec, packed, plain_bytes)
        except PackingError as error:
            raise damaged(sealer.name, f"{where} does not unpack: {error}", id=record_id.hex()) from None
        if blake3(plain, key=self._id_keys[kind]).digest() != record_id:
            raise damaged(sealer.name, f"{where} does not match its id", id=record_id.hex())
        if out is None:
            return memoryview(plain)
        out[:plain_bytes] = plain
        return out[:plain_bytes]


OffLoop = Callable[[Callable[[], None]], Awaitable[None]]
CHECK_READ_BYTES = 4 << 20
"""Records are read together up to this when a whole pack is checked."""


async def check_records(
    store: Store, opener: RecordOpener, contents: Contents, off_loop: OffLoop, advance: Callable[[int], None]
) -> None:
    """Read and open every record of a pack. Raises Damaged, ObjectMissing, StorageError."""
    name, table = layout.pack_name(contents.pack_id), contents.table
    sealer = opener.sealer(contents.pack_id, contents.key_id)
    begin = 0
    while begin < len(table):
        offset = int(table[begin]["offset"])
        ends = table["offset"][begin:].astype(np.int64) + table["stored"][begin:]
        end = begin + max(1, int(np.searchsorted(ends, offset + CHECK_READ_BYTES, side="right")))
        rows, length = table[begin:end], int(ends[end - begin - 1]) - offset
        content = memoryview(await store.get_range(name, offset, length))
        await off_loop(partial(_open_rows, opener, sealer, rows, content, offset))
        advance(length)
        begin = end


def _open_rows(opener: RecordOpener, sealer: Sealer, rows: Table, content: memoryview, first_offset: int) -> None:
    for row in rows:
        start = int(row["offset"]) - first_offset
        opener.open(
            sealer,
            content[start : start + int(row["stored"])],
            offset=int(row["offset"]),
            record_id=int(row["key"]).to_bytes(8, "big") + row["tail"].tobytes(),
            plain_bytes=int(row["plain"]),
            kind=FrameKind(int(row["kind"])),
        )
