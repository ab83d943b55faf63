"""Disks copied to a repository in memory and back, by the pipeline itself; calls that fail in the middle."""

from __future__ import annotations

import threading
from random import Random

from mover.config import DataSettings
from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.pipeline.disk_to_repository import DiskCopy, DiskResult, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit, Unlisted
from mover.pipeline.repository_to_disk import RestoreResult, restore_disk
from mover.pipeline.workers import Workers
from tests.support.plainrepo import MemoryDisk, PlainMap, PlainRepository

BLOCK = 4096
DATA = DataSettings(
    block_size=BLOCK, read_size=3 * BLOCK, readers=2, compute_threads=2, restore_threads=2, budget=64 * BLOCK
)


def workers(data: DataSettings = DATA) -> Workers:
    return Workers(data, Budget(data.budget))


async def full(
    repository: PlainRepository,
    disk: MemoryDisk,
    pool: Workers,
    *,
    regions: Regions | None = None,
    unlisted: Unlisted = "zero",
    audit: Audit | None = None,
) -> DiskResult:
    job = DiskCopy(
        size_bytes=disk.size_bytes,
        block_bytes=BLOCK,
        regions=Regions.whole(disk.size_bytes) if regions is None else regions,
        mode=ReadMode.FULL,
        unlisted=unlisted,
        audit=audit or Audit(4, Random(1)),
    )
    return await copy_disk(job, workers=pool, session=repository, device=disk, meter=Meter())


async def incremental(
    repository: PlainRepository,
    disk: MemoryDisk,
    pool: Workers,
    regions: Regions,
    base: bytes,
    base_size: int,
    audit: Audit | None = None,
) -> DiskResult:
    job = DiskCopy(
        size_bytes=disk.size_bytes,
        block_bytes=BLOCK,
        regions=regions,
        mode=ReadMode.INCREMENTAL,
        unlisted="unchanged",
        audit=audit or Audit(4, Random(1)),
        base_map=PlainMap(bytearray(base)),
        base_size_bytes=base_size,
    )
    return await copy_disk(job, workers=pool, session=repository, device=disk, meter=Meter())


async def restore(
    repository: PlainRepository,
    node_ids: bytes,
    size: int,
    pool: Workers,
    target: MemoryDisk | None,
    *,
    is_fresh: bool = True,
) -> RestoreResult:
    """Onto the target, or with None verify."""
    return await restore_disk(
        repository.image(node_ids, size_bytes=size, block_bytes=BLOCK),
        reader=repository,
        workers=pool,
        target=target,
        meter=Meter(),
        skip_zero=is_fresh,
        readback_blocks=8,
        dice=Random(3),
    )


async def restored(
    repository: PlainRepository,
    node_ids: bytes,
    size: int,
    pool: Workers,
    *,
    fresh: bool = True,
    target: MemoryDisk | None = None,
) -> tuple[bytes, RestoreResult]:
    target = target or MemoryDisk(bytes(size) if fresh else b"\xaa" * size)
    result = await restore(repository, node_ids, size, pool, target, is_fresh=fresh)
    assert target.is_flushed
    return bytes(target.content), result


class Nth:
    """Fails the n-th call of one name."""

    def __init__(self, name: str, n: int, error: Exception) -> None:
        self.name, self.left, self.error = name, n, error
        self.lock = threading.Lock()

    def __call__(self, name: str, offset: int = 0) -> None:
        if name == self.name:
            with self.lock:
                self.left -= 1
                if self.left == 0:
                    raise self.error


def assert_nothing_leaked(pool: Workers) -> None:
    assert pool.budget.used_bytes == 0
    assert pool._pools._pools == {}
    for thread in threading.enumerate():
        if thread.name.startswith("read-"):
            thread.join(5)  # it has left its lane, and is on its last line
            assert not thread.is_alive()
