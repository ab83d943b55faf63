"""How long Python holds its interpreter lock for a block, and what that allows at most.

The real pipeline and repository on blocks of 4 KiB, so that hash, zstd and AES, which work
without the lock, take next to nothing. ``held``: CPU of a block on one reader and one compute
thread, the natives' few microseconds included, hence an upper bound. ``reached``: reads and
compression sleep as long as they take for a true block, as on a node with a core for each
thread; what the lock then lets through is measured, not projected; so many threads on fewer cores make it worse.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from time import sleep
from typing import Annotated
from unittest.mock import patch

import typer

from bench.kit import Bench, Out, Quick, Samples, bench, settings_of
from bench.kit import Spent as Watch
from bench.sessions import session_in_memory
from mover.config import DataSettings
from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.pipeline.disk_to_repository import DiskCopy, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit
from mover.pipeline.workers import Workers
from mover.repository.codec import Codecs
from mover.repository.layout import Codec
from mover.repository.session import Session
from mover.units import MIB

BLOCK_BYTES = 4096
READ_S_PER_MIB, COMPUTE_S_PER_MIB = 0.5e-3, 1.9e-3
"""A read from a cluster; hash and zstd 1 of real data on one core."""


class NumberedDisk:
    """Every block differs in its first bytes; reading one takes ``read_s``, outside the lock."""

    sector_bytes = BLOCK_BYTES

    def __init__(self, number: int, blocks: int, read_s: float) -> None:
        self.name, self.size_bytes = f"disk-{number}", blocks * BLOCK_BYTES
        self._read_s, self._stamp = read_s, (number << 64) + 1

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        for start in range(0, len(buffer), BLOCK_BYTES):
            buffer[start : start + 16] = (self._stamp + offset_bytes + start).to_bytes(16, "little")
        if self._read_s:
            sleep(self._read_s * (len(buffer) // BLOCK_BYTES))

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
    """A session of an encrypted repository in memory, whose compression may sleep."""
    with patch("mover.repository.repository.Codecs", LateCodecs):
        async with session_in_memory(passphrase="bench") as session:
            yield session


async def copy(disks: list[NumberedDisk], data: DataSettings, *, twice: bool) -> Spent:
    """Copy the disks side by side. twice: measure the second time, when all blocks are known."""
    async with open_session() as session:
        with Workers(data, Budget(data.budget)) as workers:
            for _ in range(2 if twice else 1):
                with Watch() as watch:
                    async with asyncio.TaskGroup() as group:
                        for disk in disks:
                            job = _job(disk.size_bytes)
                            work = copy_disk(job, workers=workers, session=session, device=disk, meter=Meter())
                            group.create_task(work)
    return Spent(watch.wall_s, watch.cpu_s, sum(disk.size_bytes for disk in disks) // BLOCK_BYTES)


def _job(size_bytes: int) -> DiskCopy:
    return DiskCopy(
        size_bytes=size_bytes,
        block_bytes=BLOCK_BYTES,
        regions=Regions.whole(size_bytes),
        mode=ReadMode.FULL,
        unlisted="read",
        audit=Audit(0, Random(1)),
    )


def _settings(mib: float, readers: int, compute: int) -> DataSettings:
    """As shipped, but for the size of blocks: as many of them go together as would of true ones."""
    together = max(1, int(DataSettings().read_size / (mib * MIB)))
    small = {"block_size": BLOCK_BYTES, "read_size": together * BLOCK_BYTES}
    return DataSettings().model_copy(update={**small, "readers": readers, "compute_threads": compute})


def main(
    blocks: Annotated[int, typer.Option(min=100, help="Blocks a measurement.")] = 40_000,
    cores: Annotated[str, typer.Option(help="Compute threads to try, each as on a core of its own.")] = "8,16,32",
    samples: Samples = 3,
    out: Out = None,
    quick: Quick = False,
) -> None:
    """Microseconds a block, and what follows: bytes a second that one process can reach at most."""
    blocks, cores, samples = (800, "4", 1) if quick else (blocks, cores, samples)
    with bench("lock", out, quick=quick, **settings_of(blocks=blocks, cores=cores)) as run:
        for _ in range(samples):
            for mib in (0.25, 0.5, 1, 4):
                for kind in ("new", "known"):
                    _hold(run, blocks, mib, kind)
                for threads in (int(text) for text in cores.split(",")):
                    _reach(run, blocks, mib, threads)


def _hold(run: Bench, blocks: int, mib: float, kind: str) -> None:
    disk = NumberedDisk(0, blocks, 0.0)
    spent = asyncio.run(copy([disk], _settings(mib, 1, 1), twice=kind == "known"))
    held_s = spent.cpu_s / spent.blocks
    run.add("lock.held", held_s * 1e6, "us", "lower", block_mib=mib, kind=kind)
    run.add("lock.projected", mib * MIB / held_s, "B/s", "higher", block_mib=mib, kind=kind).target = 5e9


def _reach(run: Bench, blocks: int, mib: float, threads: int) -> None:
    """Eight disks, as many threads as cores would be: what comes through."""
    number = 8
    readers = max(2, round(threads * READ_S_PER_MIB / COMPUTE_S_PER_MIB / number) + 1)
    disks = [NumberedDisk(n, blocks // number, mib * READ_S_PER_MIB) for n in range(number)]
    with patch.object(LateCodecs, "pack_s", mib * COMPUTE_S_PER_MIB):
        spent = asyncio.run(copy(disks, _settings(mib, readers, threads), twice=False))
    reached = spent.blocks * mib * MIB / spent.wall_s
    run.add("lock.reached", reached, "B/s", "higher", block_mib=mib, cores=threads)
    allowed = threads / COMPUTE_S_PER_MIB * MIB
    run.add("lock.reached_of_cores", reached / allowed, "share", "higher", block_mib=mib, cores=threads)


if __name__ == "__main__":
    typer.run(main)
