"""What sealing costs: a repository's ``store_block`` and ``open_block`` beside the bare libraries.

bare: keyed BLAKE3, zstd and AES-256-GCM, nothing else. new, known: blocks that the repository has
not, has. At 4 KiB the cost of Python is not lost in that of the libraries; nothing is written to a disk.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from zstandard import ZstdCompressor

from bench import content
from bench.kit import Bench, Out, Quick, Samples, Spent, bench, thread_counts
from bench.sessions import CHEAP, running
from mover.clock import SystemClock
from mover.repository.repository import Repository
from mover.storage.memory import MemoryStore
from mover.units import KIB, MIB

SIZES = (4 * KIB, 256 * KIB, MIB, 4 * MIB)
LEVELS = (-5, 1, 3)
Blocks = Sequence[memoryview]
Work = Callable[[memoryview], object]


def spread(threads: ThreadPoolExecutor, count: int, make: Callable[[], Work], blocks: Blocks) -> Spent:
    """Work on all blocks, a share each; every thread has tools of its own."""

    def share(number: int) -> None:
        work = make()
        for block in blocks[number::count]:
            work(block)

    with Spent() as spent:
        for done in [threads.submit(share, number) for number in range(count)]:
            done.result()
    return spent


def bare(level: int) -> Work:
    """The least that sealing a block can be."""
    cipher, compressor, key = AESGCM(bytes(32)), ZstdCompressor(level=level), bytes(range(32))

    def work(block: memoryview) -> None:
        blake3(block, key=key).digest()
        cipher.encrypt(bytes(12), compressor.compress(block), bytes(120))

    return work


class _Sealing:
    """One repository in memory, sealed into and opened from once."""

    def __init__(self, blocks: Blocks, level: int, count: int) -> None:
        self._blocks, self._level, self._count = blocks, level, count
        self.spent: dict[str, Spent] = {}

    async def run(self) -> dict[str, Spent]:
        store, clock = MemoryStore(), SystemClock()
        await Repository.init(store, passphrase="bench", clock=clock, cost=CHEAP)
        with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(self._count) as threads:
            repository = await Repository.open(
                store, passphrase="bench", cache_dir=Path(cache), clock=clock, level=self._level
            )
            self.spent["bare"] = await self._each(threads, lambda: bare(self._level))
            ids = await self._seal(repository, threads)
            await self._open(repository, threads, ids)
            await repository.close()
        return self.spent

    async def _each(self, threads: ThreadPoolExecutor, make: Callable[[], Work]) -> Spent:
        with ThreadPoolExecutor(1) as starter:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(starter, spread, threads, self._count, make, self._blocks)

    async def _seal(self, repository: Repository, threads: ThreadPoolExecutor) -> list[bytes]:
        async with running(await repository.open_session(points=[])) as session:
            for what in ("new", "known"):
                self.spent[what] = await self._each(threads, lambda: session.store_block)
            await session.flush()
            return [session.block_id(block) for block in self._blocks]

    async def _open(self, repository: Repository, threads: ThreadPoolExecutor, ids: list[bytes]) -> None:
        reader = await repository.open_reader()
        places, size = reader.locate(b"".join(ids)), len(self._blocks[0])
        sealed = {}
        for row, block_id in enumerate(ids):
            place = (int(places.pack_no[row]), int(places.offset_bytes[row]), int(places.stored_bytes[row]))
            data = await reader.fetch(place[0], offset_bytes=place[1], length_bytes=place[2])
            sealed[id(self._blocks[row])] = memoryview(data), place, block_id

        def opening() -> Work:
            out = memoryview(bytearray(size))

            def work(block: memoryview) -> None:
                data, (pack_no, offset, _), block_id = sealed[id(block)]
                reader.open_block(data, pack_no=pack_no, offset=offset, id=block_id, plain_bytes=size, out=out)

            return work

        self.spent["open"] = await self._each(threads, opening)
        await reader.end()


def measure(run: Bench, *, sizes: Sequence[int], levels: Sequence[int], counts: Sequence[int], volume: int) -> None:
    """One sample of everything. volume: bytes sealed each time (of 4 KiB blocks: an eighth)."""
    for size in sizes:
        blocks = content.blocks(size, max(1, (volume // 8 if size < 64 * KIB else volume) // size))
        total = len(blocks) * size
        for level in levels:
            for count in counts:
                params = {"size_bytes": size, "level": level, "threads": count}
                for what, spent in asyncio.run(_Sealing(blocks, level, count).run()).items():
                    run.add(f"seal.{what}.rate", spent.rate(total), "B/s", "higher", **params)
                    run.add(f"seal.{what}.cpu", spent.cpu_s / len(blocks) * 1e6, "us", "lower", **params)


def main(
    volume: Annotated[int, typer.Option(help="MiB sealed each time.")] = 128,
    samples: Samples = 5,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Seal and open blocks in memory: by block size, zstd level, threads."""
    samples = 2 if quick else samples
    with bench("seal", out, quick=quick, volume_mib=volume, samples=samples) as run:
        counts = thread_counts(len(os.sched_getaffinity(0)))
        for number in range(samples):
            run.say(f"sample {number + 1}")
            if quick:
                measure(run, sizes=(4 * KIB, 64 * KIB), levels=(1,), counts=(1, 2), volume=512 * KIB)
            else:
                measure(run, sizes=SIZES, levels=LEVELS, counts=counts, volume=volume * MIB)


if __name__ == "__main__":
    typer.run(main)
