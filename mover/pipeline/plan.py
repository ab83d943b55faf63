"""Which blocks of a disk are read, which are known zero, which stay as they were. Pure.

Works on spans (first block, count) in arrays: a disk of 10 million blocks with 100,000
regions is planned without one Python object per block.

The audit. A list of regions that was cut short looks exactly like a quiet disk, so some of
the blocks that need no read are read all the same and compared with what the list says.
Per class (unchanged, zeroed, unlisted) the class's N blocks are divided into n strata of
equal length and one block is drawn from each. If the list lies about a share f of a class,
f_i of its stratum i, a run misses it with probability prod(1 - f_i) <= (1 - f)^n; so it is
found with at least 1 - (1 - f)^n: n = 64 finds f = 5 % with 96 %, 1 % with 47 %, and
one wrong block of N with n/N. After k runs the miss is (1 - f)^(n k). Beside the draw, the
blocks at distance 0, 1, 3, 7, 15 … after the last region are always read: a list that was
cut lies exactly there. What no sample is likely to find, a single wrong block, the rolling
slice does in time (``rolling``): its blocks are read whatever their class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mover.clock import Dice
from mover.model.region import RegionKind, Regions, distinct

Unlisted = Literal["zero", "unchanged", "read"]
"""What a block is that no region touches: zero (full), unchanged (incremental), unknown."""

Ints = NDArray[np.int64]


class Purpose(IntEnum):
    """Why a block is read."""

    COPY = 0
    CHECK_UNCHANGED = 1
    CHECK_ZEROED = 2
    CHECK_UNLISTED = 3

    @property
    def audit_class(self) -> str:
        """The class in reports and metrics."""
        return {1: "unchanged", 2: "zeroed", 3: "unlisted"}[int(self)]


@dataclass(frozen=True, slots=True)
class Audit:
    """How much is checked: blocks per class, or every block; the dice decide which.

    rolling: the blocks of the rolling slice as (first, end), ascending, disjoint.
    """

    blocks: int
    dice: Dice
    is_full: bool = False
    rolling: Sequence[tuple[int, int]] = ()


class Piece(NamedTuple):
    """One read: neighbouring blocks with one purpose."""

    first: int
    blocks: int
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Spans in order of offset, disjoint. firsts, counts: int64 blocks; purposes: uint8."""

    size_bytes: int
    block_bytes: int
    firsts: Ints
    counts: Ints
    purposes: NDArray[np.uint8]
    zero_firsts: Ints
    zero_counts: Ints
    """Blocks that are recorded as zero without a read (some may be read as a check)."""

    @property
    def block_count(self) -> int:
        return -(-self.size_bytes // self.block_bytes)

    @property
    def read_bytes(self) -> int:
        """What this plan reads; a short tail block counts with its true length."""
        return self.bytes_of(slice(None))

    @property
    def copy_bytes(self) -> int:
        return self.bytes_of(self.purposes == Purpose.COPY)

    def bytes_of(self, chosen: NDArray[np.bool_] | slice) -> int:
        ends = (self.firsts[chosen] + self.counts[chosen]) * self.block_bytes
        return int((np.minimum(ends, self.size_bytes) - self.firsts[chosen] * self.block_bytes).sum())

    def piece_bytes(self, piece: Piece) -> int:
        return min((piece.first + piece.blocks) * self.block_bytes, self.size_bytes) - piece.first * self.block_bytes

    def windows(self, blocks: int) -> Iterator[list[Piece]]:
        """The spans in order, cut where a window has ``blocks`` of them; each window at least one."""
        window: list[Piece] = []
        room = blocks
        for index in range(len(self.firsts)):
            first, left = int(self.firsts[index]), int(self.counts[index])
            purpose = Purpose(int(self.purposes[index]))
            while left:
                count = min(left, room)
                window.append(Piece(first, count, purpose))
                first, left, room = first + count, left - count, room - count
                if room == 0:
                    yield window
                    window, room = [], blocks
        if window:
            yield window


def cut(window: list[Piece], read_blocks: int) -> Iterator[Piece]:
    """Cut spans into single reads of at most ``read_blocks``, aligned to that many."""
    for span in window:
        first, end = span.first, span.first + span.blocks
        while first < end:
            count = min(read_blocks - first % read_blocks, end - first)
            yield Piece(first, count, span.purpose)
            first += count


def make_plan(
    regions: Regions,
    *,
    size_bytes: int,
    block_bytes: int,
    unlisted: Unlisted,
    audit: Audit,
    base_size_bytes: int | None = None,
) -> ReadPlan:
    """Plan one disk.

    A block is known zero only if it lies wholly inside zero regions; any other block that a
    region touches is read whole. What lies beyond ``base_size_bytes`` (the disk has grown)
    counts as data. Raises ValueError when the base is larger than the disk.
    """
    count = -(-size_bytes // block_bytes)
    blocks = _in_blocks(regions, size_bytes=size_bytes, block_bytes=block_bytes)
    after = int(blocks.ends[-1]) if len(blocks) else 0
    if unlisted == "unchanged" and base_size_bytes is not None:
        if base_size_bytes > size_bytes:
            raise ValueError(f"the base has {base_size_bytes} bytes, the disk only {size_bytes}")
        # The base's last block, if it was short, has another length now: read it again.
        grown_from = base_size_bytes // block_bytes if base_size_bytes < size_bytes else count
        blocks = blocks.with_data(grown_from, count - grown_from)
    copied, zeroed, rest = blocks.only(RegionKind.DATA), blocks.only(RegionKind.ZERO), blocks.gaps(count)
    if unlisted == "read":
        copied, rest = _merged(copied, rest, count), rest.only(RegionKind.ZERO)
    quiet = Purpose.CHECK_UNCHANGED if unlisted == "unchanged" else Purpose.CHECK_UNLISTED
    parts = [(copied.starts, copied.ends - copied.starts, Purpose.COPY)]
    for spans, purpose in ((zeroed, Purpose.CHECK_ZEROED), (rest, quiet)):
        parts.append((*_checked(spans, audit, after), purpose))
    firsts, counts, purposes = _ordered(parts)
    zeroes = _merged(zeroed, rest, count) if unlisted == "zero" else zeroed
    return ReadPlan(
        size_bytes=size_bytes,
        block_bytes=block_bytes,
        firsts=firsts,
        counts=counts,
        purposes=purposes,
        zero_firsts=zeroes.starts,
        zero_counts=zeroes.ends - zeroes.starts,
    )


def _in_blocks(regions: Regions, *, size_bytes: int, block_bytes: int) -> Regions:
    """Regions in units of blocks: data wherever data or a part of a zero region touches a block."""
    count = -(-size_bytes // block_bytes)
    data, zero = regions.only(RegionKind.DATA), regions.only(RegionKind.ZERO)
    low, high = zero.starts // block_bytes, -(-zero.ends // block_bytes)
    inner_low = -(-zero.starts // block_bytes)
    inner_high = np.where(zero.ends >= size_bytes, count, zero.ends // block_bytes)
    rows = [
        _rows(data.starts // block_bytes, -(-data.ends // block_bytes), RegionKind.DATA),
        _rows(low, inner_low, RegionKind.DATA),
        _rows(np.minimum(inner_high, high), high, RegionKind.DATA),
        _rows(inner_low, inner_high, RegionKind.ZERO),
    ]
    return Regions.from_rows(np.concatenate(rows), size_bytes=count)


def _rows(starts: Ints, ends: Ints, kind: RegionKind) -> Ints:
    chosen = ends > starts
    starts, lengths = starts[chosen], (ends - starts)[chosen]
    return np.stack([starts, lengths, np.full(len(starts), int(kind), np.int64)], axis=1)


def _merged(one: Regions, other: Regions, count: int) -> Regions:
    """Both as one set of data spans."""
    rows = [_rows(r.starts, r.ends, RegionKind.DATA) for r in (one, other)]
    return Regions.from_rows(np.concatenate(rows), size_bytes=count)


def _checked(spans: Regions, audit: Audit, after: int) -> tuple[Ints, Ints]:
    """The blocks of a class to check, as spans (firsts, counts)."""
    lengths = spans.ends - spans.starts
    if audit.is_full or int(lengths.sum()) <= audit.blocks:
        return spans.starts, lengths
    drawn = _sample(spans, audit, after)
    firsts, counts = [], []
    for low, high in audit.rolling:
        drawn = drawn[(drawn < low) | (drawn >= high)]
        starts, ends = np.maximum(spans.starts, low), np.minimum(spans.ends, high)
        is_inside = starts < ends
        firsts.append(starts[is_inside])
        counts.append((ends - starts)[is_inside])
    return np.concatenate([drawn, *firsts]), np.concatenate([np.ones(len(drawn), np.int64), *counts])


def _sample(spans: Regions, audit: Audit, after: int) -> Ints:
    """Single blocks of a class that has more than are to be drawn."""
    lengths = spans.ends - spans.starts
    total = int(lengths.sum())
    if audit.blocks == 0:
        return spans.starts[:0]
    # Strata in ranks: the k-th block of the class, whatever lies between.
    borders = [total * index // audit.blocks for index in range(audit.blocks + 1)]
    ranks = [audit.dice.randrange(low, high) for low, high in pairwise(borders)]
    passed = np.concatenate([[0], np.cumsum(lengths)])
    ranks_drawn = np.array(ranks, np.int64)
    at = np.searchsorted(passed, ranks_drawn, side="right") - 1
    drawn = spans.starts[at] + ranks_drawn - passed[at]
    return distinct(np.concatenate([drawn, _behind(spans, after)]))


def _behind(spans: Regions, after: int) -> Ints:
    """Blocks of the class at distance 0, 1, 3, 7, 15 … behind the last region."""
    if len(spans) == 0 or spans.ends[-1] <= after:
        return np.empty(0, np.int64)
    reach = int(spans.ends[-1]) - after
    return after + (1 << np.arange(reach.bit_length(), dtype=np.int64)) - 1


def _ordered(parts: list[tuple[Ints, Ints, Purpose]]) -> tuple[Ints, Ints, NDArray[np.uint8]]:
    firsts = np.concatenate([part[0] for part in parts])
    counts = np.concatenate([part[1] for part in parts])
    purposes = np.concatenate([np.full(len(part[0]), int(part[2]), np.uint8) for part in parts])
    order = np.argsort(firsts, kind="stable")
    return firsts[order], counts[order], purposes[order]
