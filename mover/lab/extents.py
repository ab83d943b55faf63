"""What the kernel knows of a file's extents: clones, copies, allocation and differences.

Lists of regions are sorted tuples (offset, length, is_zero) in bytes, in steps of 4 KiB;
only the last one may end at an odd size. Reads are windows of 4 MiB, whatever the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Row = tuple[int, int, bool]
"""Offset, length, is all zero."""

GRAIN_BYTES = 4096
_WINDOW_BYTES = 4 << 20
_FICLONE = 0x40049409
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP_SYNC = 1
_EXTENT_LAST = 0x1
_EXTENT_UNWRITTEN = 0x800
# Unknown place, delayed, encoded, encrypted, unaligned, inline, tail: the address says nothing.
_EXTENT_PLACELESS = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400
_NO_REFLINK = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}

_HEADER = np.dtype(
    [("start", "u8"), ("length", "u8"), ("flags", "u4"), ("mapped", "u4"), ("room", "u4"), ("reserved", "u4")]
)
_EXTENT = np.dtype(
    [("logical", "u8"), ("physical", "u8"), ("length", "u8"), ("r64", "u8", 2), ("flags", "u4"), ("r32", "u4", 3)]
)
_EXTENTS_PER_CALL = 4096

_HOLE = -1
_UNPLACED = -2


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Where the bytes of a file lie: arrays of start, end and place (bytes, _HOLE, _UNPLACED)."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    places: NDArray[np.int64]

    def at(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each offset."""
        found = np.full(len(offsets), _HOLE, np.int64)
        if len(self.starts) == 0:
            return found
        row = np.maximum(np.searchsorted(self.starts, offsets, side="right") - 1, 0)
        inside = (offsets >= self.starts[row]) & (offsets < self.ends[row])
        placed = inside & (self.places[row] >= 0)
        found[inside] = _UNPLACED
        found[placed] = (self.places[row] + offsets - self.starts[row])[placed]
        return found


def reflink(source: Path, target: Path) -> bool:
    """Make ``target`` share all extents of ``source``; False where the file system cannot."""
    with _new_copy(source, target) as (reading, writing):
        try:
            fcntl.ioctl(writing, _FICLONE, reading)
        except OSError as failure:
            target.unlink()
            if failure.errno in _NO_REFLINK:
                return False
            raise
    return True


def copy_sparse(source: Path, target: Path) -> None:
    """A copy that shares no extent and keeps holes; ``target`` must not exist."""
    with _new_copy(source, target) as (reading, writing):
        os.ftruncate(writing, os.fstat(reading).st_size)
        for start, end in data_spans(reading):
            _copy_span(reading, writing, start, end)


@contextmanager
def _new_copy(source: Path, target: Path) -> Iterator[tuple[int, int]]:
    """The descriptors of a source to read and of its copy, which must not exist."""
    reading = os.open(source, os.O_RDONLY)
    try:
        writing = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield reading, writing
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_span(reading: int, writing: int, start: int, end: int) -> None:
    # Not copy_file_range: it would share extents again where it can.
    while start < end:
        piece = os.pread(reading, min(_WINDOW_BYTES, end - start), start)
        if not piece:
            return
        start += os.pwrite(writing, piece, start)


def data_spans(descriptor: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of what is not a hole, ascending."""
    size, at = os.fstat(descriptor).st_size, 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as failure:
            if failure.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at


def allocation(path: Path) -> list[Row]:
    """The whole file as allocated (not zero) and sparse (zero) regions."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        return _tiled(data_spans(descriptor), 0, size)
    finally:
        os.close(descriptor)


def _tiled(spans: Iterator[tuple[int, int]], start: int, size: int) -> list[Row]:
    """[start, size) as alternating rows: the spans, widened to the grain, and zero between them."""
    rows: list[Row] = []
    at = start
    for low, high in spans:
        low = max(at, low - low % GRAIN_BYTES)
        high = min(size, high + -high % GRAIN_BYTES)
        if high <= low:
            continue
        if low > at:
            rows.append((at, low - at, True))
        if rows and not rows[-1][2]:
            rows[-1] = (rows[-1][0], high - rows[-1][0], False)
        else:
            rows.append((low, high - low, False))
        at = high
    if at < size:
        rows.append((at, size - at, True))
    return rows


def difference(path: Path, base: Path) -> list[Row]:
    """What differs in ``path`` from ``base``, by their real bytes; a grown tail differs wholly.

    Extents that both files share, and holes of both, are equal without being read.
    """
    new = os.open(path, os.O_RDONLY)
    try:
        old = os.open(base, os.O_RDONLY)
        try:
            return _difference(new, old)
        finally:
            os.close(old)
    finally:
        os.close(new)


def _difference(new: int, old: int) -> list[Row]:
    size, old_size = os.fstat(new).st_size, os.fstat(old).st_size
    # A grain that the old file ends in belongs to the grown tail.
    common = size if size <= old_size else old_size - old_size % GRAIN_BYTES
    rows: list[Row] = []
    for start, end in _suspects(new, old, common):
        for at in range(start, end, _WINDOW_BYTES):
            rows.extend(_compared(new, old, at, min(_WINDOW_BYTES, end - at)))
    if size > old_size:
        rows.extend(_tiled(data_spans(new), common, size))
    return _merged(rows)


def _suspects(new: int, old: int, size: int) -> Iterator[tuple[int, int]]:
    """Spans, on the grain, whose bytes may differ."""
    layouts = _layout(new), _layout(old)
    edges = np.unique(np.concatenate([[0, size], *(side for one in layouts for side in (one.starts, one.ends))]))
    edges = edges[edges <= size]
    starts, ends = edges[:-1], edges[1:]
    here, there = layouts[0].at(starts), layouts[1].at(starts)
    same_device = os.fstat(new).st_dev == os.fstat(old).st_dev
    equal = (here == there) & (here != _UNPLACED) & (same_device | (here == _HOLE))
    at = 0
    for start, end in zip(starts[~equal].tolist(), ends[~equal].tolist(), strict=True):
        low = max(at, start - start % GRAIN_BYTES)
        at = min(size, end + -end % GRAIN_BYTES)
        if at > low:
            yield low, at


def _layout(descriptor: int) -> _Layout:
    """By FIEMAP, dirty pages flushed; without it every allocated byte is at an unknown place."""
    try:
        rows = np.concatenate(list(_fiemap(descriptor)))
    except OSError as failure:
        if failure.errno not in _NO_REFLINK:
            raise
        spans = np.array(list(data_spans(descriptor)), np.int64).reshape(-1, 2)
        return _Layout(spans[:, 0], spans[:, 1], np.full(len(spans), _UNPLACED, np.int64))
    rows = rows[(rows["flags"] & _EXTENT_UNWRITTEN) == 0]
    starts, lengths = rows["logical"].astype(np.int64), rows["length"].astype(np.int64)
    places = np.where(rows["flags"] & _EXTENT_PLACELESS, _UNPLACED, rows["physical"].astype(np.int64))
    return _Layout(starts, starts + lengths, places)


def _fiemap(descriptor: int) -> Iterator[NDArray[np.void]]:
    """Batches of extents, ascending."""
    os.fsync(descriptor)
    at = 0
    while True:
        request = bytearray(_HEADER.itemsize + _EXTENTS_PER_CALL * _EXTENT.itemsize)
        header = np.frombuffer(request, _HEADER, 1)
        header[0] = (at, (1 << 63) - at, _FIEMAP_SYNC, 0, _EXTENTS_PER_CALL, 0)
        fcntl.ioctl(descriptor, _FS_IOC_FIEMAP, request, True)
        count = int(header[0]["mapped"])
        extents = np.frombuffer(request, _EXTENT, count, _HEADER.itemsize)
        yield extents
        if count == 0 or int(extents[-1]["flags"]) & _EXTENT_LAST:
            return
        at = int(extents[-1]["logical"] + extents[-1]["length"])


def _compared(new: int, old: int, offset: int, length: int) -> Iterator[Row]:
    """The differing runs of one window."""
    ours, theirs = _grains(new, offset, length), _grains(old, offset, length)
    state = np.where((ours != theirs).any(axis=1), np.where(ours.any(axis=1), 1, 2), 0)
    edges = np.flatnonzero(np.diff(state, prepend=-1, append=-1))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if state[first]:
            end = min(length, last * GRAIN_BYTES)
            yield offset + first * GRAIN_BYTES, end - first * GRAIN_BYTES, bool(state[first] == 2)


def _grains(descriptor: int, offset: int, length: int) -> NDArray[np.uint64]:
    """A window as rows of one grain each; missing bytes are zero."""
    piece = bytearray(length + -length % GRAIN_BYTES)
    view = memoryview(piece)[:length]
    filled = 0
    while filled < length and (count := os.preadv(descriptor, [view[filled:]], offset + filled)):
        filled += count
    return np.frombuffer(piece, np.uint64).reshape(-1, GRAIN_BYTES // 8)


def _merged(rows: list[Row]) -> list[Row]:
    """Neighbours of one kind as one row."""
    merged: list[Row] = []
    for row in rows:
        if merged and merged[-1][2] == row[2] and merged[-1][0] + merged[-1][1] == row[0]:
            merged[-1] = (merged[-1][0], merged[-1][1] + row[1], row[2])
        else:
            merged.append(row)
    return merged
