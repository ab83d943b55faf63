"""Which parts of which packs a window of blocks needs: few ranged gets, each pack once. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mover.model.point import ID_BYTES
from mover.pipeline.ports import BlockPlaces
from mover.units import KIB

GAP_BYTES = 256 * KIB
"""Unwanted bytes between two records that are read along: cheaper than another request."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Record:
    """One stored record and the blocks of this window that hold its content."""

    offset_bytes: int
    length_bytes: int
    id: bytes
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """One ranged get: neighbouring records of a pack."""

    pack_no: int
    offset_bytes: int
    length_bytes: int
    runs: tuple[tuple[Record, ...], ...]
    """In order of their first blocks. Several records are a run when neighbouring blocks of the disk hold one each:
    one write."""

    @property
    def blocks(self) -> list[int]:
        """All blocks of the window that it holds."""
        return [block for run in self.runs for record in run for block in record.blocks]


@dataclass(frozen=True, slots=True)
class Window:
    """What neighbouring blocks consist of."""

    segments: list[Segment]
    zero_spans: list[tuple[int, int]]
    """(first block, count)"""
    missing: list[int]
    """Blocks whose id is in no pack that the index knows, or known to be lost."""


def zero_spans(is_zero: NDArray[np.bool_], first_block: int) -> list[tuple[int, int]]:
    """Runs of true as (first block, count)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_zero, [False]]).astype(np.int8)))
    return [(first_block + int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]


def wanted_ids(ids: bytes) -> tuple[NDArray[np.bool_], bytes]:
    """Which of the ids are zero, and the others, in order."""
    rows = np.frombuffer(ids, np.uint64).reshape(-1, ID_BYTES // 8)
    is_zero: NDArray[np.bool_] = np.logical_not(np.any(rows, axis=1))
    return is_zero, rows[~is_zero].tobytes()


def arrange(
    ids: bytes,
    is_zero: NDArray[np.bool_],
    places: BlockPlaces,
    *,
    first_block: int,
    most_bytes: int,
    most_run: int = 1,
) -> Window:
    """Turn places (of the ids that are not zero) into segments of at most ``most_bytes``, runs of at most ``most_run``.

    Packs come in the order in which the disk first needs them; a single record may exceed
    ``most_bytes``.
    """
    blocks = np.flatnonzero(~is_zero)
    packs = np.asarray(places.pack_no, np.int64)
    is_here = packs >= 0
    missing = [first_block + int(block) for block in blocks[~is_here]]
    blocks, packs = blocks[is_here], packs[is_here]
    offsets, lengths = (
        np.asarray(places.offset_bytes, np.int64)[is_here],
        np.asarray(places.stored_bytes, np.int64)[is_here],
    )
    order = np.lexsort((blocks, offsets, _first_needs(packs)))
    records = _records(ids, blocks[order], packs[order], offsets[order], lengths[order], first_block)
    return Window(list(_segments(records, most_bytes, most_run)), zero_spans(is_zero, first_block), missing)


def _first_needs(packs: Ints) -> Ints:
    """For each row the first row of the same pack."""
    by_pack = np.argsort(packs, kind="stable")
    is_new = np.ones(len(packs), bool)
    is_new[1:] = packs[by_pack[1:]] != packs[by_pack[:-1]]
    needs = np.empty(len(packs), np.int64)
    needs[by_pack] = by_pack[is_new][np.cumsum(is_new) - 1]
    return needs


def _records(
    ids: bytes, blocks: Ints, packs: Ints, offsets: Ints, lengths: Ints, first_block: int
) -> Iterator[tuple[int, Record]]:
    """Rows of one place become one record."""
    if len(blocks) == 0:
        return
    is_new = np.ones(len(blocks), bool)
    is_new[1:] = (packs[1:] != packs[:-1]) | (offsets[1:] != offsets[:-1])
    starts = np.flatnonzero(is_new)
    for start, end in zip(starts, np.append(starts[1:], len(blocks)), strict=True):
        block = int(blocks[start])
        yield (
            int(packs[start]),
            Record(
                int(offsets[start]),
                int(lengths[start]),
                ids[block * ID_BYTES : (block + 1) * ID_BYTES],
                tuple(first_block + int(b) for b in blocks[start:end]),
            ),
        )


def _segments(records: Iterator[tuple[int, Record]], most_bytes: int, most_run: int) -> Iterator[Segment]:
    pack, near = -1, list[Record]()
    for pack_no, record in records:
        if near:
            end = near[-1].offset_bytes + near[-1].length_bytes
            total = record.offset_bytes + record.length_bytes - near[0].offset_bytes
            if pack_no != pack or record.offset_bytes - end > GAP_BYTES or total > most_bytes:
                yield _segment(pack, near, most_run)
                near = []
        pack = pack_no
        near.append(record)
    if near:
        yield _segment(pack, near, most_run)


def _segment(pack_no: int, near: list[Record], most_run: int) -> Segment:
    start = near[0].offset_bytes
    length_bytes = near[-1].offset_bytes + near[-1].length_bytes - start
    return Segment(pack_no, start, length_bytes, tuple(_runs(near, most_run)))


def _runs(records: list[Record], most: int) -> Iterator[tuple[Record, ...]]:
    run: list[Record] = []
    for record in sorted(records, key=lambda record: record.blocks[0]):
        if run and (len(run) == most or not _follows(run[-1], record)):
            yield tuple(run)
            run = []
        run.append(record)
    yield tuple(run)


def _follows(former: Record, record: Record) -> bool:
    return len(former.blocks) == len(record.blocks) == 1 and record.blocks[0] == former.blocks[0] + 1
