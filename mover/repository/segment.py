"""A local, immutable, sorted file of places, memory-mapped: id → pack, offset, lengths.

Lookups of single ids run on compute threads, so they hold the GIL for about a
microsecond and never allocate arrays. A segment can be rebuilt from index objects at any
time, so it may be machine-dependent; its checksum is verified when it is opened, since a
place that does not exist would lose a block. Anonymous memory does not grow with it.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from mover.clock import secret_bytes
from mover.repository.layout import PACK_ID_BYTES
from mover.repository.rows import PACK_ROW_DTYPE

_MAGIC = b"MOVERSG2"
_HEADER = Struct("=8sIIQQ32s")
"""magic, bits of the fan-out table, sources, packs, rows, BLAKE3 of what follows and of the counts."""
ROW_DTYPE = np.dtype([("tail", "=u8", 3), ("pack", "=u4"), ("offset", "=u4"), ("stored", "=u4"), ("plain", "=u4")])
_ROW_BYTES = ROW_DTYPE.itemsize
_TAIL_BYTES = 24
CHUNK_ROWS = 1 << 16
"""Rows sorted at a time: the bound of anonymous memory while a segment is built (about 10 MiB)."""

_NAME_BYTES = 80
"""For the name of a source: an index object's has 47 bytes, a pack's 73."""
_NAME_DTYPE = np.dtype(f"S{_NAME_BYTES}")

Names = NDArray[np.bytes_]
Keys = NDArray[np.uint64]
Rows = NDArray[Any]


class Part(NamedTuple):
    """What a segment is built from: an index object, or another segment."""

    sources: Names
    """The index objects that list the packs; a pack itself where it told of itself."""
    packs: NDArray[Any]
    """PACK_ROW_DTYPE; ``reserved`` is the row of ``sources`` that lists the pack."""
    keys: Keys
    rows: Rows
    """ROW_DTYPE, ``pack`` is a row of ``packs``."""
    kept: NDArray[np.bool_]
    """Which packs to take over."""


def names_of(names: Collection[str]) -> Names:
    """As a segment keeps them. Raises ValueError for one that cannot be a source's."""
    if any(len(name) > _NAME_BYTES for name in names):
        raise ValueError(f"a name longer than {_NAME_BYTES} bytes")
    return np.array([name.encode("ascii") for name in names], _NAME_DTYPE)


class SegmentUnfit(ValueError):
    """A file that is no (whole, undamaged) segment: throw it away and build it again."""


class Segment:
    """One file. Immutable; threads may look up at once."""

    def __init__(self, path: Path) -> None:
        """Map and verify. Raises SegmentUnfit, OSError."""
        self.path = path
        self._memory = _mapped(path)
        header = memoryview(self._memory)
        if len(header) < _HEADER.size:
            raise SegmentUnfit(f"{path} is cut off")
        magic, bits, sources, packs, rows, digest = _HEADER.unpack_from(header)
        plan = _Plan(bits, sources, packs, rows)
        if magic != _MAGIC or not 0 < bits <= 16 or plan.size != len(header):
            raise SegmentUnfit(f"{path} is no segment")
        if _digest(header) != digest:
            raise SegmentUnfit(f"{path} is damaged")
        self.sources: Names = np.frombuffer(header, _NAME_DTYPE, sources, _HEADER.size)
        self.packs: NDArray[Any] = np.frombuffer(header, PACK_ROW_DTYPE, packs, plan.packs_at)
        self.keys: Keys = np.frombuffer(header, np.uint64, rows, plan.keys_at)
        self.rows: Rows = np.frombuffer(header, ROW_DTYPE, rows, plan.rows_at)
        self._starts = header[plan.starts_at : plan.keys_at].cast("B")[: 4 * ((1 << bits) + 1)].cast("I")
        self._keys_view = header[plan.keys_at : plan.rows_at].cast("Q")
        self._rows_view = header[plan.rows_at :]
        self._packs_view = header[plan.packs_at : plan.starts_at]
        self._shift = 64 - bits
        self._lost: NDArray[np.bool_] | None = None
        """Per source: forgotten. None: none of them, as of ``_gone``, the same per pack."""
        self._gone: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def part(self) -> Part:
        """Itself as material for a merge, without what is gone."""
        if self._lost is None:
            return Part(self.sources, self.packs, self.keys, self.rows, np.ones(len(self.packs), bool))
        # Whoever claims a source must hold its packs: it will not be read again.
        kept = ~self._lost[self.packs["reserved"]]
        packs = self.packs.copy()
        packs["reserved"] = np.maximum(np.cumsum(~self._lost) - 1, 0)[packs["reserved"]]
        return Part(self.sources[~self._lost], packs, self.keys, self.rows, kept)

    def find_sources(self, names: Names) -> NDArray[np.intp]:
        """Where each of these is in ``sources``, -1 where it is not."""
        if not len(self.sources):
            return np.full(len(names), -1, np.intp)
        at = np.searchsorted(self.sources, names)
        at[at == len(self.sources)] = 0
        at[self.sources[at] != names] = -1
        return at

    def only(self, there: NDArray[np.bool_]) -> Segment:
        """The same file, less what the other sources list. Views of the former one stay as they are."""
        twin = copy(self)
        twin._lost = twin._gone = None
        if not there.all():
            twin._lost, twin._gone = ~there, ~there[self.packs["reserved"]]
        return twin

    def has(self, block_id: bytes, dead: Collection[bytes]) -> bool:
        """Whether a pack that is neither gone nor ``dead`` (tombstoned) holds this id."""
        key = int.from_bytes(block_id[:8], "big")
        bucket, keys, rows = key >> self._shift, self._keys_view, self._rows_view
        end = self._starts[bucket + 1]
        row = bisect_left(keys, key, self._starts[bucket], end)
        while row < end and keys[row] == key:
            at = row * _ROW_BYTES
            if rows[at : at + _TAIL_BYTES] == block_id[8:] and self._is_alive(row, dead):
                return True
            row += 1
        return False

    def _is_alive(self, row: int, dead: Collection[bytes]) -> bool:
        if self._gone is None and not dead:
            return True
        pack = int(self.rows[row]["pack"])
        if self._gone is not None and self._gone[pack]:
            return False
        at = pack * PACK_ROW_DTYPE.itemsize
        return bytes(self._packs_view[at : at + PACK_ID_BYTES]) not in dead

    def mask(self, pack_ids: Collection[bytes]) -> NDArray[np.bool_] | None:
        """Which of its packs are among these; None: none of them."""
        found = np.array([row.tobytes() in pack_ids for row in self.packs["pack_id"]], bool)
        return found if found.any() else None

    def locate(
        self, keys: Keys, tails: NDArray[np.uint64], avoided: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """The row of each id, -1 where it is not here. keys: (n,), tails: (n, 3). avoided: packs not to look in."""
        found = np.full(len(keys), -1, np.int64)
        if not len(self):
            return found
        waiting = np.arange(len(keys))
        at = np.searchsorted(self.keys, keys)
        while len(waiting):
            inside = at < len(self)
            waiting, at = waiting[inside], at[inside]
            same = self.keys[at] == keys[waiting]
            waiting, at = waiting[same], at[same]
            rows = self.rows[at]
            match = (rows["tail"] == tails[waiting]).all(axis=1)
            if self._gone is not None:
                match &= ~self._gone[rows["pack"]]
            if avoided is not None:
                match &= ~avoided[rows["pack"]]
            found[waiting[match]] = at[match]
            waiting, at = waiting[~match], at[~match] + 1
        return found


def remove_drafts(folder: Path) -> None:
    """What a killed process left half-made; a living one holds a lock on its own."""
    for draft in folder.glob("*.draft"):
        try:
            with draft.open("rb") as file:
                flock(file.fileno(), LOCK_EX | LOCK_NB)
                draft.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue


class _Plan:
    """Where the arrays of a segment lie in its file."""

    def __init__(self, bits: int, sources: int, packs: int, rows: int) -> None:
        self.sources, self.packs = sources, packs
        self.packs_at = _aligned(_HEADER.size + sources * _NAME_BYTES)
        self.starts_at = self.packs_at + packs * PACK_ROW_DTYPE.itemsize
        self.keys_at = _aligned(self.starts_at + 4 * ((1 << bits) + 1))
        self.rows_at = self.keys_at + 8 * rows
        self.size = self.rows_at + _ROW_BYTES * rows


def _aligned(offset: int) -> int:
    return -(-offset // 64) * 64


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise SegmentUnfit(f"{path} is empty")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _digest(content: memoryview) -> bytes:
    hasher = blake3(content[: _HEADER.size - 32])
    hasher.update(content[_HEADER.size :])
    return hasher.digest()


# --- building -----------------------------------------------------------------------


def build(folder: Path, parts: Sequence[Part]) -> Segment:
    """Merge parts into a new file. Raises OSError (no space).

    Rows are first counted, then scattered into their buckets in the mapped file, then
    sorted bucket by bucket: never more than a chunk in anonymous memory.
    """
    rows_most = sum(len(part.keys) for part in parts)
    bits = max(1, min(16, rows_most.bit_length() - 6))
    counts = np.zeros(1 << bits, np.int64)
    for keys, _ in _chunks(parts):
        counts += np.bincount(_bucket(keys, bits), minlength=len(counts))
    sources, packs = sum(len(part.sources) for part in parts), sum(int(part.kept.sum()) for part in parts)
    plan = _Plan(bits, sources, packs, int(counts.sum()))
    path = folder / f"{secret_bytes(8).hex()}.segment"
    draft = path.with_suffix(".draft")
    try:
        with draft.open("w+b") as file:
            flock(file.fileno(), LOCK_EX)
            # Allocated for real: a full disk is an error here, not a signal later.
            os.posix_fallocate(file.fileno(), 0, plan.size)
            memory = mmap.mmap(file.fileno(), plan.size)
            _fill(memoryview(memory), plan, bits, counts, parts)
            memory.flush()
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return Segment(path)


def _fill(out: memoryview, plan: _Plan, bits: int, counts: NDArray[np.int64], parts: Sequence[Part]) -> None:
    _fill_packs(out, plan, parts)
    total, starts = int(counts.sum()), np.concatenate([[0], np.cumsum(counts)])
    np.frombuffer(out, np.uint32, len(starts), plan.starts_at)[:] = starts
    keys_out = np.frombuffer(out, np.uint64, total, plan.keys_at)
    rows_out = np.frombuffer(out, ROW_DTYPE, total, plan.rows_at)
    cursor = starts[:-1].copy()
    for keys, rows in _chunks(parts):
        order = np.argsort(keys, kind="stable")
        keys, buckets = keys[order], _bucket(keys[order], bits)
        rank = np.arange(len(keys)) - np.searchsorted(buckets, buckets)
        place = cursor[buckets] + rank
        keys_out[place], rows_out[place] = keys, rows[order]
        cursor += np.bincount(buckets, minlength=len(counts))
    _sort_buckets(keys_out, rows_out, starts)
    header = _HEADER.pack(_MAGIC, bits, plan.sources, plan.packs, total, bytes(32))
    out[: _HEADER.size] = header
    out[_HEADER.size - 32 : _HEADER.size] = _digest(out)


def _fill_packs(out: memoryview, plan: _Plan, parts: Sequence[Part]) -> None:
    """All sources, sorted in the file itself, and all kept packs with the new number of their source."""
    sources = np.frombuffer(out, _NAME_DTYPE, plan.sources, _HEADER.size)
    np.concatenate([part.sources for part in parts], out=sources)
    sources.sort()
    packs, begin = np.frombuffer(out, PACK_ROW_DTYPE, plan.packs, plan.packs_at), 0
    for part in parts:
        kept = part.packs[part.kept]
        # Where two parts have a source, both mean its first row; the second then counts as one that is gone.
        kept["reserved"] = np.searchsorted(sources, part.sources)[kept["reserved"]]
        packs[begin : begin + len(kept)] = kept
        begin += len(kept)


def _sort_buckets(keys: Keys, rows: Rows, starts: NDArray[np.int64]) -> None:
    """Sort whole buckets, as many at a time as fit into a chunk."""
    begin = 0
    while begin < len(keys):
        last = int(np.searchsorted(starts, begin + CHUNK_ROWS, side="right")) - 1
        end = int(starts[last])
        if end <= begin:
            end = int(starts[np.searchsorted(starts, begin, side="right")])
        order = np.argsort(keys[begin:end], kind="stable")
        keys[begin:end] = keys[begin:end][order]
        rows[begin:end] = rows[begin:end][order]
        begin = end


def _bucket(keys: Keys, bits: int) -> NDArray[np.int64]:
    return (keys >> np.uint64(64 - bits)).astype(np.int64)


def _chunks(parts: Sequence[Part]) -> Iterator[tuple[Keys, Rows]]:
    """(keys, rows) of what is kept, with the new pack numbers."""
    first_pack = 0
    for part in parts:
        numbers = (np.cumsum(part.kept) - 1 + first_pack).astype(np.uint32)
        first_pack += int(part.kept.sum())
        for begin in range(0, len(part.keys), CHUNK_ROWS):
            keys, rows = part.keys[begin : begin + CHUNK_ROWS], part.rows[begin : begin + CHUNK_ROWS].copy()
            kept = part.kept[rows["pack"]]
            rows["pack"] = numbers[rows["pack"]]
            yield keys[kept], rows[kept]
