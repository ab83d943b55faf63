"""Plan and map of a 10 TB sparse disk with 100,000 changed regions: seconds and memory, no data.

The plan, the windows, the threads and the map are the real ones; the device gives zeroes and
no block is compressed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import tempfile
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import typer

from bench.ours import LoopLag
from mover.clock import SystemClock, stopwatch
from mover.config import Settings
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

VM = "00000000-0000-4000-8000-00000000be0c"


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


def _scattered(count: int, size_bytes: int, block_bytes: int) -> Regions:
    """So many regions smaller than a block, at random places; a fifth of them zero."""
    dice = np.random.default_rng(1)
    starts = dice.integers(0, size_bytes - block_bytes, count)
    kinds = np.where(dice.random(count) < 0.2, RegionKind.ZERO, RegionKind.DATA)
    rows = np.stack([starts, dice.integers(4096, block_bytes, count), kinds], axis=1)
    return Regions.from_rows(rows, size_bytes=size_bytes)


async def measure(size_bytes: int, regions: int) -> dict[str, float]:
    settings, clock, block = Settings().data, SystemClock(), Settings().data.block_size
    store = MemoryStore()
    await Repository.init(store, passphrase=None, clock=clock)
    with tempfile.TemporaryDirectory() as cache:
        repository = await Repository.open(store, passphrase=None, cache_dir=Path(cache), clock=clock)
        session = await repository.open_session(points=[(VM, "0001")])
        started, lag = stopwatch(), LoopLag()
        listed = _scattered(regions, size_bytes, block)
        nodes = -(-size_bytes // block // FAN_OUT)
        slot = Slot("scsi", 0)
        former = DiskImage("d", slot, size_bytes, ReadMode.FULL, "", None, None, block, FAN_OUT, ZERO_ID * nodes)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(session.run())
            watching = group.create_task(lag.watch())
            job = DiskCopy(
                size_bytes=size_bytes,
                block_bytes=block,
                regions=listed,
                mode=ReadMode.INCREMENTAL,
                unlisted="unchanged",
                audit=Audit(settings.audit_blocks, Random(1)),
                base_map=await session.open_map(former),
                base_size_bytes=size_bytes,
            )
            empty = NoData(size_bytes, session)
            with Workers(settings, Budget(settings.budget)) as workers:
                result = await copy_disk(job, workers=workers, session=empty, device=empty, meter=Meter())
            await session.flush()
            session.stop()
            await running
            watching.cancel()
        seconds = stopwatch() - started
        await session.end()
        await repository.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stored = sum(info.size_bytes for info in [info async for info in store.list("")]) / (1 << 20)
    return {
        "seconds": round(seconds, 2),
        "peak_rss_mib": round(peak),
        "of_it_the_store_mib": round(stored),
        "blocks": result.bytes_read // block,
        "lag_p99_ms": round(lag.p99_ms(), 1),
    }


def main(
    terabytes: Annotated[float, typer.Option(help="Size of the disk.")] = 10.0,
    regions: Annotated[int, typer.Option(help="Changed regions.")] = 100_000,
) -> None:
    """Print the figures as JSON."""
    size = int(terabytes * (1 << 40))
    typer.echo(json.dumps(asyncio.run(measure(size, regions))))


if __name__ == "__main__":
    typer.run(main)
