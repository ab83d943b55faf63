"""Copies without compression: the real plan, threads and map around blocks that count as known.

Nothing is packed or uploaded, so what is left is reading, hashing (if wanted) and Python.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

from bench.sessions import session_in_memory
from mover.clock import stopwatch
from mover.config import DataSettings
from mover.device.protocol import ReadableDevice
from mover.model.point import ID_BYTES, ReadMode
from mover.model.region import Regions
from mover.pipeline.disk_to_repository import DiskCopy, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit
from mover.pipeline.workers import Workers
from mover.repository.session import Session, StoredBlock


class KnownBlocks:
    """A session around a real one: every block counts as known. hashed: its id is the true one."""

    def __init__(self, session: Session, *, hashed: bool) -> None:
        self.new_map, self.block_id, self.interrupt = session.new_map, session.block_id, session.interrupt
        self._hashed = hashed
        self._numbers = count(1)

    def store_block(self, data: memoryview) -> StoredBlock:
        if self._hashed:
            return StoredBlock(self.block_id(data), "known", 0)
        return StoredBlock(next(self._numbers).to_bytes(ID_BYTES, "big"), "known", 0)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a copy took of this process."""

    wall_s: float
    user_s: float
    system_s: float
    blocks: int
    size_bytes: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


async def copy(
    devices: Sequence[ReadableDevice], regions: Regions | None, data: DataSettings, *, hashed: bool
) -> Spent:
    """Copy the regions of each device (the whole, if none) side by side. No audit samples."""
    async with session_in_memory() as session:
        known = KnownBlocks(session, hashed=hashed)
        with Workers(data, Budget(data.budget)) as workers:
            used, started = resource.getrusage(resource.RUSAGE_SELF), stopwatch()
            async with asyncio.TaskGroup() as group:
                copies = [
                    group.create_task(
                        copy_disk(
                            _job(device.size_bytes, regions, data),
                            workers=workers,
                            session=known,
                            device=device,
                            meter=Meter(),
                        )
                    )
                    for device in devices
                ]
            wall, after = stopwatch() - started, resource.getrusage(resource.RUSAGE_SELF)
    size = sum(one.result().bytes_read for one in copies)
    return Spent(
        wall_s=wall,
        user_s=after.ru_utime - used.ru_utime,
        system_s=after.ru_stime - used.ru_stime,
        blocks=size // data.block_size,
        size_bytes=size,
    )


def _job(size_bytes: int, regions: Regions | None, data: DataSettings) -> DiskCopy:
    return DiskCopy(
        size_bytes=size_bytes,
        block_bytes=data.block_size,
        regions=Regions.whole(size_bytes) if regions is None else regions,
        mode=ReadMode.FULL,
        unlisted="read" if regions is None else "zero",
        audit=Audit(0, Random(1)),
    )
