"""A seeded disk image to measure with: 60 % full, compressing two to three times, and its changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mover.model.region import RegionKind, Regions
from mover.units import KIB, MIB

FULL_SHARE = 0.6
CHANGED_SHARE = 0.02
_RANDOM_SHARE = 0.2
"""Of the full mebibytes: stands for what is compressed already."""
_WORDS = 4096
_WORD_BYTES = 8
_RUN_MIB = 16
_CHANGE_BYTES = (64 * KIB, MIB)
_ALIGNMENT = 4 * KIB


class Sample:
    """One image file, its allocated regions, and how to change 2 % of it. size_bytes: whole mebibytes."""

    def __init__(self, path: Path, *, size_bytes: int, seed: int = 1) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._dice = np.random.default_rng(seed)
        self._words = self._dice.integers(0, 256, (_WORDS, _WORD_BYTES), dtype=np.uint8)
        self.allocated = self._write()

    def _write(self) -> Regions:
        """Runs of data between holes; durable, so that no write-back disturbs what is measured."""
        rows, at = [], 0
        with self.path.open("wb") as file:
            file.truncate(self.size_bytes)
            while at < self.size_bytes:
                run = min(int(self._dice.integers(1, _RUN_MIB + 1)) * MIB, self.size_bytes - at)
                if self._dice.random() < FULL_SHARE:
                    rows.append((at, run, RegionKind.DATA))
                    for offset in range(at, at + run, MIB):
                        file.seek(offset)
                        file.write(self._content(MIB))
                at += run
            file.flush()
            os.fsync(file.fileno())
        return _regions(rows, self.size_bytes)

    def change(self) -> Regions:
        """Overwrite 2 % in scattered places, most of them where data is; what differs now."""
        wanted, changed, rows = int(self.size_bytes * CHANGED_SHARE), 0, []
        with self.path.open("r+b") as file:
            while changed < wanted:
                length = min(int(self._dice.integers(*_CHANGE_BYTES)), wanted - changed + _ALIGNMENT)
                length = max(_ALIGNMENT, length // _ALIGNMENT * _ALIGNMENT)
                offset = int(self._dice.integers(0, self.size_bytes - length)) // _ALIGNMENT * _ALIGNMENT
                file.seek(offset)
                file.write(self._content(length))
                rows.append((offset, length, RegionKind.DATA))
                changed += length
            file.flush()
            os.fsync(file.fileno())
        return _regions(rows, self.size_bytes)

    def _content(self, length: int) -> bytes:
        if self._dice.random() < _RANDOM_SHARE:
            return self._dice.bytes(length)
        # Squared, so that some words are common and most are rare, as in text and tables.
        chosen: NDArray[np.int64] = (self._dice.random(length // _WORD_BYTES) ** 2 * _WORDS).astype(np.int64)
        return self._words[chosen].tobytes()


def _regions(rows: list[tuple[int, int, RegionKind]], size_bytes: int) -> Regions:
    return Regions.from_rows(np.array(rows, np.int64).reshape(-1, 3), size_bytes=size_bytes)
