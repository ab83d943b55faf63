"""Disks that live: what a file server and a database write in a day, seeded, as runs of bytes.

Each has ``fill``, what is there at the beginning, and ``day``, what the next day writes: (offset,
length) in bytes, ascending, disjoint, in whole sectors of 4 KiB. ``write`` puts content there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.sample_disk import PROGRAMS, files_below, log_file, page_file
from mover.units import KIB, MIB

CELL = 4 * KIB
GROUP_BYTES = 128 * MIB
"""A file system keeps its tables at the beginning of each."""
TABLES_BYTES = 2 * MIB
PAGE = 8 * KIB
Cells = NDArray[np.int64]
Runs = list[tuple[int, int]]


class Pattern(Protocol):
    """A disk and its days."""

    def fill(self) -> Runs: ...

    def day(self) -> Runs: ...


def runs_of(cells: Iterable[int] | Cells) -> Runs:
    """Cells in any order, also twice → the runs that they make."""
    ordered = np.unique(np.asarray(cells, np.int64))
    breaks = np.flatnonzero(np.diff(ordered) > 1) + 1
    return [(int(part[0]) * CELL, len(part) * CELL) for part in np.split(ordered, breaks) if len(part)]


class FileServer:
    """60 % full; a day deletes files, appends to some and makes new ones, with their inodes and bitmaps.

    Sizes are log-normal around 512 KiB, from 64 KiB to 16 MiB. The disk is not new: all that it
    holds has been written over once, so what is free lies in the gaps that deleted files left.
    """

    FULL = 0.6

    def __init__(self, size_bytes: int, *, share: float, seed: int) -> None:
        """share: of the disk, written as data in a day."""
        self._dice = np.random.default_rng(seed)
        self._used = np.zeros(size_bytes // CELL, bool)
        for start in range(0, size_bytes, GROUP_BYTES):
            self._used[start // CELL : (start + TABLES_BYTES) // CELL] = True
        self._tables = np.flatnonzero(self._used)
        self._wanted = int(size_bytes * share) // CELL
        self._files: list[Cells] = []
        self._next = 0

    def fill(self) -> Runs:
        full, filled = int(self.FULL * len(self._used)), len(self._tables)
        while filled < full:
            filled += len(self._new())
        for _ in range(full // self._wanted):
            self.day()
        return runs_of(np.concatenate([self._tables, *self._files]))

    def day(self) -> Runs:
        cells: list[Cells] = []
        freed = written = 0
        while freed < self._wanted and self._files:
            gone = self._files.pop(int(self._dice.integers(len(self._files))))
            self._used[gone] = False
            freed += len(gone)
            cells.append(self._inode(gone))
        while written < self._wanted:
            data = self._append() if self._dice.random() < 0.3 and self._files else self._new()
            written += len(data)
            cells += [data, self._inode(data)]
        return runs_of(np.concatenate(cells))

    def _new(self) -> Cells:
        size = float(np.clip(self._dice.lognormal(np.log(512 * KIB), 1.2), 64 * KIB, 16 * MIB))
        made = self._take(int(size) // CELL)
        self._files.append(made)
        return made

    def _append(self) -> Cells:
        number = int(self._dice.integers(len(self._files)))
        tail = self._take(int(self._dice.integers(64 * KIB, MIB)) // CELL)
        self._files[number] = np.concatenate([self._files[number], tail])
        return tail

    def _take(self, count: int) -> Cells:
        """The next free cells behind those that were taken last, from the beginning again at the end."""
        free = np.flatnonzero(~self._used)
        at = int(np.searchsorted(free, self._next))
        taken = np.concatenate([free[at : at + count], free[: max(0, count - (len(free) - at))]])
        self._used[taken] = True
        self._next = int(taken[-1]) + 1
        return taken

    def _inode(self, cells: Cells) -> Cells:
        """The group's bitmaps, and a place in its table of inodes."""
        start = int(cells[0]) * CELL // GROUP_BYTES * GROUP_BYTES // CELL
        return np.array([start, start + 1, start + 2 + int(self._dice.integers(TABLES_BYTES // CELL - 2))], np.int64)


class Database:
    """Half of the disk is a table; a day rewrites pages at random, and appends to a circular log.

    A write is one or two pages of 8 KiB; half of them go to a tenth of the table. The log takes
    twice the bytes of the pages and has an eighth of the disk.
    """

    def __init__(self, size_bytes: int, *, share: float, seed: int) -> None:
        """share: of the disk, written as pages in a day."""
        self._dice = np.random.default_rng(seed)
        self._log_bytes = size_bytes // 8 // CELL * CELL
        self._table = self._log_bytes + MIB
        self._pages = size_bytes // 2 // PAGE
        self._share_bytes = int(size_bytes * share)
        self._at = 0

    def fill(self) -> Runs:
        return [(0, self._table + self._pages * PAGE)]

    def day(self) -> Runs:
        cells: list[int] = [self._log_bytes // CELL]
        written = 0
        while written < self._share_bytes:
            count = int(self._dice.integers(1, 3))
            hot = self._pages // 10 if self._dice.random() < 0.5 else self._pages
            page = int(self._dice.integers(0, hot - count))
            first = (self._table + page * PAGE) // CELL
            cells += range(first, first + count * PAGE // CELL)
            written += count * PAGE
        log = 2 * written // CELL
        cells += [(self._at + number) % (self._log_bytes // CELL) for number in range(log)]
        self._at += log
        return runs_of(cells)


POOL_BYTES = 64 * MIB


def files_content(seed: int) -> bytes:
    """What users keep: this machine's own programs and texts, logs, and a fifth that is compressed already."""
    dice, pool = Random(seed), bytearray()
    files = sorted(path for source in PROGRAMS for path in files_below(Path(source)))
    dice.shuffle(files)
    while len(pool) < POOL_BYTES:
        kind = dice.random()
        if kind < 0.6 and files:
            pool += files.pop().read_bytes()[: 2 * MIB]
        else:
            pool += log_file(dice)[:MIB] if kind < 0.8 else dice.randbytes(MIB)
    return bytes(pool[:POOL_BYTES])


def pages_content(seed: int) -> bytes:
    """Pages of a database."""
    dice = Random(seed)
    return b"".join(page_file(dice) for _ in range(4))


class Content:
    """What is written: pieces of the pool, no two sectors equal, so no two blocks are."""

    def __init__(self, pool: bytes, seed: int) -> None:
        """pool: whole sectors."""
        self._dice = np.random.default_rng(seed)
        self._pool = np.frombuffer(pool, np.uint8).reshape(-1, CELL)

    def write(self, disk: Path, runs: Runs) -> None:
        """New bytes in each of the runs, on the disk when it returns."""
        with disk.open("r+b") as file:
            for offset, length in runs:
                for start in range(0, length, 8 * MIB):
                    file.seek(offset + start)
                    file.write(self._cells(min(8 * MIB, length - start) // CELL))
            file.flush()
            os.fsync(file.fileno())

    def _cells(self, count: int) -> bytes:
        first = int(self._dice.integers(0, len(self._pool)))
        cells = np.take(self._pool, range(first, first + count), axis=0, mode="wrap")
        cells[:, :16] = np.frombuffer(self._dice.bytes(16 * count), np.uint8).reshape(-1, 16)
        return cells.tobytes()
