"""How long Python holds its interpreter lock for a block, and what that allows at most.

The real pipeline and repository on blocks of 4 KiB, so that hash, zstd and AES, which work
without the lock, take next to nothing. ``held``: CPU of a block on one reader and one compute
thread, the natives' few microseconds included, hence an upper bound. ``reached``: reads and
compression sleep as long as they take for a true block, as on a node with a core for each
thread; what the lock then lets through is measured, not projected.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import sleep
from typing import Annotated
from unittest.mock import patch

import typer

from mover.clock import SystemClock, stopwatch
from mover.config import DataSettings
from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.pipeline.disk_to_repository import DiskCopy, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit
from mover.pipeline.workers import Workers
from mover.repository.codec import Codecs
from mover.repository.keys import ScryptCost
from mover.repository.layout import Codec
from mover.repository.repository import Repository
from mover.repository.session import Session
from mover.storage.memory import MemoryStore

BLOCK_BYTES = 4096
MIB = 1 << 20
GB = 1e9
READ_S_PER_MIB, COMPUTE_S_PER_MIB = 0.5e-3, 1.9e-3
"""A read from a cluster; hash and zstd 1 of real data on one core."""


class NumberedDisk:
    """Every block differs in its first bytes; a read takes ``read_s``, outside the lock."""

    sector_bytes = BLOCK_BYTES

    def __init__(self, name: str, blocks: int, read_s: float) -> None:
        self.name, self.size_bytes = name, blocks * BLOCK_BYTES
        self._read_s, self._salt = read_s, hash(name) & 0xFFFF_FFFF

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        buffer[:16] = (offset_bytes + 1 + (self._salt << 64)).to_bytes(16, "little")
        if self._read_s:
            sleep(self._read_s)

    def close(self) -> None:
        pass


class LateCodecs(Codecs):
    """Compression that does nothing for ``pack_s``, outside the lock, if that is set."""

    pack_s = 0.0

    def pack(self, plain: bytes | memoryview) -> tuple[Codec, bytes | memoryview]:
        if not self.pack_s:
            return super().pack(plain)
        sleep(self.pack_s)
        return Codec.RAW, plain


@dataclass(frozen=True, slots=True)
class Spent:
    """What a copy took."""

    wall_s: float
    cpu_s: float
    blocks: int


@asynccontextmanager
async def open_session() -> AsyncIterator[Session]:
    """A session of an encrypted repository in memory."""
    store, clock = MemoryStore(), SystemClock()
    await Repository.init(store, passphrase="bench", clock=clock, cost=ScryptCost(16, 1, 1))
    with tempfile.TemporaryDirectory() as cache, patch("mover.repository.repository.Codecs", LateCodecs):
        repository = await Repository.open(store, passphrase="bench", cache_dir=Path(cache), clock=clock)
        session = await repository.open_session(points=[])
        async with asyncio.TaskGroup() as group:
            running = group.create_task(session.run())
            yield session
            session.stop()
            await running
        await session.end()
        await repository.close()


async def copy(disks: list[NumberedDisk], data: DataSettings, *, twice: bool) -> Spent:
    """Copy the disks side by side. twice: measure the second time, when all blocks are known."""
    spent = Spent(0, 0, 0)
    async with open_session() as session:
        with Workers(data, Budget(data.budget)) as workers:
            for _ in range(2 if twice else 1):
                used, started = _cpu_s(), stopwatch()
                async with asyncio.TaskGroup() as group:
                    for disk in disks:
                        work = copy_disk(
                            _job(disk.size_bytes), workers=workers, session=session, device=disk, meter=Meter()
                        )
                        group.create_task(work)
                blocks = sum(disk.size_bytes for disk in disks) // BLOCK_BYTES
                spent = Spent(stopwatch() - started, _cpu_s() - used, blocks)
    return spent


def _job(size_bytes: int) -> DiskCopy:
    return DiskCopy(
        size_bytes=size_bytes,
        block_bytes=BLOCK_BYTES,
        regions=Regions.whole(size_bytes),
        mode=ReadMode.FULL,
        unlisted="read",
        audit=Audit(0, Random(1)),
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _settings(readers: int, compute: int) -> DataSettings:
    return DataSettings().model_copy(
        update={"block_size": BLOCK_BYTES, "read_size": BLOCK_BYTES, "readers": readers, "compute_threads": compute}
    )


def main(
    blocks: Annotated[int, typer.Option(help="Blocks a measurement.")] = 40_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    compute: Annotated[str, typer.Option(help="Compute threads (cores) to try.")] = "8,16,32",
) -> None:
    """Print microseconds a block, and what follows in GB/s."""
    for round_ in range(1, rounds + 1):
        for name, twice in (("new", False), ("known", True)):
            spent = asyncio.run(copy([NumberedDisk("one", blocks, 0.0)], _settings(1, 1), twice=twice))
            held_s = spent.cpu_s / spent.blocks
            typer.echo(
                f"round {round_}  {name:5} blocks: held {held_s * 1e6:5.1f} us at most: "
                f"{MIB / held_s / GB:5.1f} GB/s at 1 MiB, {4 * MIB / held_s / GB:5.1f} GB/s at 4 MiB"
            )
        for mib in (1, 4):
            for threads in (int(text) for text in compute.split(",")):
                _reach(round_, blocks, mib, threads)


def _reach(round_: int, blocks: int, mib: int, threads: int) -> None:
    """Eight disks, as many threads as cores would be: what comes through."""
    number = 8
    readers = max(2, round(threads * READ_S_PER_MIB / COMPUTE_S_PER_MIB / number) + 1)
    disks = [NumberedDisk(f"disk-{n}", blocks // number, mib * READ_S_PER_MIB) for n in range(number)]
    with patch.object(LateCodecs, "pack_s", mib * COMPUTE_S_PER_MIB):
        spent = asyncio.run(copy(disks, _settings(readers, threads), twice=False))
    ideal = threads / COMPUTE_S_PER_MIB * MIB / GB
    reached = spent.blocks * mib * MIB / spent.wall_s / GB
    typer.echo(
        f"round {round_}  new blocks of {mib} MiB, {threads:2} cores: reached {reached:5.1f} GB/s, "
        f"{reached / ideal:4.0%} of what the cores could compress"
    )


if __name__ == "__main__":
    typer.run(main)
