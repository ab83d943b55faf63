"""Writes a golden repository of the present version: ``python -m tests.golden.make FOLDER``.

Two, one sealed and one open, each with two points of a disk of 20 blocks. Made once per
version of the format and then only ever read.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
from pathlib import Path

from mover.clock import FakeClock
from mover.storage.memory import MemoryStore
from tests.support.repositories import BLOCK, backup, make, open_in


def blocks(seed: str) -> list[bytes]:
    """20 blocks that no library's changes can alter; the last one is short."""
    made = [hashlib.shake_256(f"{seed}{number}".encode()).digest(BLOCK // 4) * 4 for number in range(20)]
    return [*made[:5], bytes(BLOCK), *made[6:-1], made[-1][:100]]


def changed() -> list[bytes]:
    """The second point: block 3 is new, block 4 is zero."""
    before = blocks("golden")
    return [*before[:3], blocks("later")[3], bytes(BLOCK), *before[5:]]


async def write(folder: Path, passphrase: str | None) -> None:
    """One repository."""
    store, clock = MemoryStore(), FakeClock()
    await make(store, passphrase=passphrase, clock=clock)
    with tempfile.TemporaryDirectory() as cache:
        repository = await open_in(store, Path(cache), passphrase=passphrase, pack_bytes=30_000)
        first = await backup(repository, blocks("golden"), "point-1", created_at=1.0)
        await backup(repository, changed(), "point-2", base=first.point.disks[0], changed=[3, 4], created_at=2.0)
        await repository.close()
    for name, held in store._objects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(held.data)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    asyncio.run(write(target / "sealed", "correct horse"))
    asyncio.run(write(target / "open", None))
