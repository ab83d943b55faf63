"""The algebra of regions: sorted, disjoint, merged (offset, length, kind) of one disk.

Held as arrays, since a list of changed regions may have hundreds of thousands of rows.
Data wins where data and zero overlap: a block is zero only if nothing says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class RegionKind(IntEnum):
    """What a region holds."""

    DATA = 1
    ZERO = 2


@dataclass(frozen=True, slots=True)
class Region:
    offset_bytes: int
    length_bytes: int
    kind: RegionKind = RegionKind.DATA

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.length_bytes


class RegionError(ValueError):
    """A region is negative, empty, of no known kind, or begins beyond the end."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Immutable and normal: starts ascend, none overlap, equal neighbours are one.

    starts, ends: int64 bytes; kinds: uint8 of RegionKind; all of the same length.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    kinds: NDArray[np.uint8]

    @classmethod
    def of(cls, regions: Iterable[Region], *, size_bytes: int) -> Regions:
        """Normalise. Regions that cross the end are clipped; raises RegionError, see there."""
        rows = [(r.offset_bytes, r.length_bytes, int(r.kind)) for r in regions]
        try:
            table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        except OverflowError:
            raise RegionError("a region's offset or length has more than 63 bits") from None
        return cls.from_rows(table, size_bytes=size_bytes)

    @classmethod
    def from_rows(cls, rows: NDArray[np.int64], *, size_bytes: int) -> Regions:
        """Normalise rows of (offset, length, kind)."""
        starts, lengths, kinds = rows[:, 0], rows[:, 1], rows[:, 2]
        unknown = (kinds != RegionKind.DATA) & (kinds != RegionKind.ZERO)
        if unknown.any():
            raise RegionError(f"a region has the unknown kind {kinds[int(np.argmax(unknown))]}")
        wrong = (starts < 0) | (lengths <= 0) | (starts >= size_bytes)
        if wrong.any():
            first = rows[int(np.argmax(wrong))]
            raise RegionError(f"region at {first[0]} of {first[1]} bytes does not fit a disk of {size_bytes} bytes")
        # Clip before adding, so that an absurd length cannot overflow.
        ends = starts + np.minimum(lengths, size_bytes - starts)
        data = _union(starts[kinds == RegionKind.DATA], ends[kinds == RegionKind.DATA])
        zero = _union(starts[kinds == RegionKind.ZERO], ends[kinds == RegionKind.ZERO])
        zero = _subtract(zero, data)
        return cls._joined(data, zero)

    @classmethod
    def whole(cls, size_bytes: int) -> Regions:
        """One data region over all of the disk."""
        return cls.of([Region(0, size_bytes)] if size_bytes else [], size_bytes=size_bytes)

    @classmethod
    def _joined(cls, data: _Spans, zero: _Spans) -> Regions:
        starts = np.concatenate([data[0], zero[0]])
        ends = np.concatenate([data[1], zero[1]])
        kinds = np.concatenate(
            [
                np.full(len(data[0]), RegionKind.DATA, np.uint8),
                np.full(len(zero[0]), RegionKind.ZERO, np.uint8),
            ]
        )
        order = np.argsort(starts, kind="stable")
        return cls(starts[order], ends[order], kinds[order])

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Region]:
        for start, end, kind in zip(self.starts, self.ends, self.kinds, strict=True):
            yield Region(int(start), int(end - start), RegionKind(int(kind)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regions) and list(self) == list(other)

    def bytes_of(self, kind: RegionKind) -> int:
        """Sum of the lengths of one kind."""
        chosen = self.kinds == kind
        return int((self.ends[chosen] - self.starts[chosen]).sum())

    def only(self, kind: RegionKind) -> Regions:
        """The regions of one kind."""
        chosen = self.kinds == kind
        return Regions(self.starts[chosen], self.ends[chosen], self.kinds[chosen])

    def with_data(self, offset_bytes: int, length_bytes: int) -> Regions:
        """The same and one more data region (a grown tail)."""
        if length_bytes <= 0:
            return self
        starts = np.append(self.starts[self.kinds == RegionKind.DATA], offset_bytes)
        ends = np.append(self.ends[self.kinds == RegionKind.DATA], offset_bytes + length_bytes)
        zero = self.only(RegionKind.ZERO)
        data = _union(starts, ends)
        return Regions._joined(data, _subtract((zero.starts, zero.ends), data))

    def gaps(self, size_bytes: int) -> Regions:
        """What no region covers, as data regions."""
        covered = _union(self.starts, self.ends)
        starts, ends = _subtract((np.array([0], np.int64), np.array([size_bytes], np.int64)), covered)
        return Regions(starts, ends, np.full(len(starts), RegionKind.DATA, np.uint8))


_Spans = tuple[NDArray[np.int64], NDArray[np.int64]]


def distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each value once, ascending. The first call of ``np.unique`` imports ``numpy.ma``: 80 ms on the event loop."""
    ordered = np.sort(values)
    is_new = np.ones(len(ordered), bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_new]


def _union(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> _Spans:
    """Sorted, merged spans; touching spans become one."""
    if len(starts) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    opens = np.ones(len(starts), bool)
    opens[1:] = starts[1:] > reach[:-1]
    last = np.append(np.flatnonzero(opens)[1:] - 1, len(starts) - 1)
    return starts[opens], reach[last]


def _subtract(spans: _Spans, holes: _Spans) -> _Spans:
    """The parts of merged ``spans`` that no merged ``hole`` covers."""
    edges = distinct(np.concatenate([*spans, *holes]))
    if len(edges) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    starts, ends = edges[:-1], edges[1:]
    keep = _covers(spans, starts) & ~_covers(holes, starts)
    return _union(starts[keep], ends[keep])


def _covers(spans: _Spans, points: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which points lie inside a span."""
    if len(spans[0]) == 0:
        return np.zeros(len(points), bool)
    at = np.searchsorted(spans[0], points, side="right") - 1
    inside: NDArray[np.bool_] = (at >= 0) & (points < spans[1][np.maximum(at, 0)])
    return inside
