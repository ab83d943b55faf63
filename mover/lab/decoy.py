"""The second device of the same size: patterned, so that a single changed byte is noticed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mover.lab import extents


def make(path: Path, size_bytes: int, decoy_uuid: str) -> None:
    """Patterned at 64 places all over the disk, sparse between."""
    path.unlink(missing_ok=True)
    with open(path, "xb") as file:
        file.truncate(size_bytes)
        step = max(4096, size_bytes // 64 // 4096 * 4096)
        for offset in range(0, size_bytes - 4095, step):
            file.seek(offset)
            file.write(f"DECOY {decoy_uuid} {offset:016x}\n".encode().ljust(64, b"#") * 64)


def digest_of(path: Path) -> str:
    """Of the allocated spans and their bytes: even zeroes written into a hole change it."""
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        for start, end in extents.data_spans(descriptor):
            digest.update(f"{start}-{end}:".encode())
            for offset in range(start, end, 1 << 20):
                digest.update(os.pread(descriptor, min(1 << 20, end - offset), offset))
    finally:
        os.close(descriptor)
    return digest.hexdigest()
