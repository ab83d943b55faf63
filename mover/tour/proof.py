"""What the demo proves of a restored disk: the bytes are the snapshot's, the file system is whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mover.units import MIB

_CHUNK_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class Proof:
    """One restored disk."""

    vm: str
    disk: str
    point: str
    is_same: bool
    file_system: str | None
    """clean, what the checker said, or None where there is none."""

    @property
    def is_good(self) -> bool:
        return self.is_same and self.file_system in (None, "clean")

    def words(self) -> str:
        same = "identical to the snapshot" if self.is_same else "DIFFERS from the snapshot"
        return f"{same}; file system {self.file_system}" if self.file_system else f"{same}; no file system on it"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def same_bytes(one: Path, two: Path) -> bool:
    """Compare two files of the same size wholly."""
    if one.stat().st_size != two.stat().st_size:
        return False
    with open(one, "rb") as first, open(two, "rb") as second:
        while piece := first.read(_CHUNK_BYTES):
            if piece != second.read(_CHUNK_BYTES):
                return False
    return True
