"""Plan and map of a 10 TB sparse disk with 100,000 changed regions: seconds and memory, no data.

The plan, the windows, the threads and the map are the real ones; the device gives zeroes and
no block is compressed.
"""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer

from bench.kit import Bench, Folder, Out, Quick, Spent, bench, settings_of, work_folder
from bench.ours import LoopLag
from mover.clock import SystemClock
from mover.config import DataSettings, Settings
from mover.model.machine import Slot
from mover.model.point import ZERO_ID, DiskImage, ReadMode
from mover.model.region import RegionKind, Regions
from mover.pipeline.disk_to_repository import DiskCopy, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit
from mover.pipeline.workers import Workers
from mover.repository.layout import FAN_OUT
from mover.repository.repository import Repository
from mover.repository.session import Session, StoredBlock
from mover.storage.memory import MemoryStore
from mover.units import KIB

VM = "00000000-0000-4000-8000-00000000be0c"
_ROOM_BYTES = 64 << 20
"""For the index's cache."""


class NoData:
    """A device and a session around a real one: blocks are zeroes, and each counts as known under an id of its own."""

    name, sector_bytes = "no data", 4096

    def __init__(self, size_bytes: int, session: Session) -> None:
        self.size_bytes, self.new_map, self.interrupt = size_bytes, session.new_map, session.interrupt
        self._dice = Random(2)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        pass

    def close(self) -> None:
        pass

    def store_block(self, _: memoryview) -> StoredBlock:
        return StoredBlock(self._dice.randbytes(32), "known", 0)

    def block_id(self, _: memoryview) -> bytes:
        return ZERO_ID


async def measure(run: Bench, cache: Path, *, size_bytes: int, regions: int) -> None:
    """One copy of such a disk into a repository in memory."""
    settings, clock, store = Settings().data, SystemClock(), MemoryStore()
    await Repository.init(store, passphrase=None, clock=clock)
    repository = await Repository.open(store, passphrase=None, cache_dir=cache, clock=clock)
    session = await repository.open_session(points=[(VM, "0001")])
    lag = LoopLag()
    with Spent() as spent:
        changed = scattered(size_bytes, regions, settings.block_size)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(session.run())
            watching = group.create_task(lag.watch())
            job = await incremental(size_bytes, changed, session, settings)
            empty = NoData(size_bytes, session)
            with Workers(settings, Budget(settings.budget)) as workers:
                result = await copy_disk(job, workers=workers, session=empty, device=empty, meter=Meter())
            await session.flush()
            session.stop()
            await running
            watching.cancel()
    await session.end()
    await repository.close()
    run.add("plan_and_map.time", spent.wall_s, "s", "lower")
    run.add("plan_and_map.cpu", spent.cpu_s, "s", "lower")
    run.add("plan_and_map.peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB, "bytes", "lower")
    stored = sum([info.size_bytes async for info in store.list("")])
    run.add("plan_and_map.store", stored, "bytes", "neither")
    run.add("plan_and_map.blocks", result.bytes_read // settings.block_size, "count", "neither")
    run.add("plan_and_map.lag", lag.p99_ms() / 1000, "s", "lower")


def scattered(size_bytes: int, regions: int, block_bytes: int) -> Regions:
    """Seeded, each shorter than a block; a fifth of them zeroes."""
    dice = np.random.default_rng(1)
    starts = dice.integers(0, size_bytes - block_bytes, regions)
    kinds = np.where(dice.random(regions) < 0.2, RegionKind.ZERO, RegionKind.DATA)
    rows = np.stack([starts, dice.integers(4096, block_bytes, regions), kinds], axis=1)
    return Regions.from_rows(rows, size_bytes=size_bytes)


async def incremental(size_bytes: int, changed: Regions, session: Session, settings: DataSettings) -> DiskCopy:
    """Upon an empty disk of the same size."""
    block = settings.block_size
    nodes = -(-size_bytes // block // FAN_OUT)
    former = DiskImage("d", Slot("scsi", 0), size_bytes, ReadMode.FULL, "", None, None, block, FAN_OUT, ZERO_ID * nodes)
    return DiskCopy(
        size_bytes=size_bytes,
        block_bytes=block,
        regions=changed,
        mode=ReadMode.INCREMENTAL,
        unlisted="unchanged",
        audit=Audit(settings.audit_blocks, Random(1)),
        base_map=await session.open_map(former),
        base_size_bytes=size_bytes,
    )


def main(
    folder: Folder = None,
    terabytes: Annotated[float, typer.Option(min=0.01, help="Size of the disk.")] = 10.0,
    regions: Annotated[int, typer.Option(min=1, help="Changed regions.")] = 100_000,
    quick: Quick = False,
    out: Out = None,
) -> None:
    """Plan and map of a sparse disk: seconds, memory (its store's included), lag of the loop."""
    terabytes, regions = (0.1, 1000) if quick else (terabytes, regions)
    size_bytes = int(terabytes * (1 << 40))
    said = settings_of(size_bytes=size_bytes, regions=regions)
    with bench("plan_and_map", out, quick=quick, **said) as run, work_folder(folder, _ROOM_BYTES) as work:
        asyncio.run(measure(run, work, size_bytes=size_bytes, regions=regions))


if __name__ == "__main__":
    typer.run(main)
