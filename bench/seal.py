"""What the repository adds to hash, compression and encryption: ``python -m bench.seal``.

One thread, small blocks, so that the cost of Python is not lost in that of the primitives;
CPU time, since a shared machine's wall time says little. Prints microseconds a block.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from zstandard import ZstdCompressor

from mover.clock import SystemClock
from mover.repository.keys import ScryptCost
from mover.repository.repository import Repository
from mover.storage.memory import MemoryStore

BLOCK_BYTES = 4096
BLOCKS = 10_000


def each(work: Callable[[memoryview], object], blocks: Sequence[memoryview]) -> float:
    """CPU microseconds a block, of this thread."""
    begun = time.thread_time()
    for block in blocks:
        work(block)
    return (time.thread_time() - begun) / len(blocks) * 1e6


def primitives() -> Callable[[memoryview], object]:
    """The least that sealing a block can be."""
    cipher, compressor, out = AESGCM(bytes(32)), ZstdCompressor(level=1), memoryview(bytearray(2 * BLOCK_BYTES))

    def work(block: memoryview) -> None:
        blake3(block, key=bytes(32)).digest()
        packed = compressor.compress(block)
        cipher.encrypt_into(bytes(12), packed, bytes(120), out[: len(packed) + 16])

    return work


async def measure() -> dict[str, float]:
    """What → microseconds."""
    store, clock = MemoryStore(), SystemClock()
    await Repository.init(store, passphrase="bench", clock=clock, cost=ScryptCost(16, 1, 1))
    blocks = [memoryview(os.urandom(BLOCK_BYTES // 2) + b"text" * (BLOCK_BYTES // 8)) for _ in range(BLOCKS)]
    zeroes = [memoryview(bytes(BLOCK_BYTES))] * BLOCKS
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(1) as thread:
        repository = await Repository.open(store, passphrase="bench", cache_dir=Path(cache), clock=clock)
        session = await repository.open_session(points=[])
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run())
            found = {
                "hash, zstd, AES-GCM alone": await loop.run_in_executor(thread, each, primitives(), blocks),
                "hash alone": await loop.run_in_executor(
                    thread, each, lambda block: blake3(block, key=bytes(32)).digest(), blocks
                ),
                "store_block, new": await loop.run_in_executor(thread, each, session.store_block, blocks),
                "store_block, known": await loop.run_in_executor(thread, each, session.store_block, blocks),
                "store_block, zero": await loop.run_in_executor(thread, each, session.store_block, zeroes),
            }
            await session.end()
        await repository.close()
    return found


if __name__ == "__main__":
    for name, cost in asyncio.run(measure()).items():
        print(f"{name:28} {cost:6.1f} us")
