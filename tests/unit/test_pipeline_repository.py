"""The pipeline on the real repository and real files: bytes in, the same bytes out."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest

from mover.clock import FakeClock, SystemClock
from mover.config import DataSettings
from mover.device.direct import DirectDevice
from mover.errors import Damaged, DeviceFault, StoreFull
from mover.model.machine import Slot
from mover.model.point import DiskImage, ReadMode
from mover.model.region import Region, Regions
from mover.pipeline.disk_to_repository import DiskCopy, copy_disk
from mover.pipeline.flow import Budget, Meter
from mover.pipeline.plan import Audit
from mover.pipeline.repository_to_disk import restore_disk
from mover.pipeline.workers import Workers
from mover.repository.layout import FAN_OUT
from mover.repository.repository import Repository
from mover.storage.memory import MemoryStore
from mover.units import KIB, MIB
from tests.support.plainrepo import MemoryDisk

BLOCK = 256 * KIB
SIZE = 7 * MIB + 12 * KIB
DATA = DataSettings(block_size=BLOCK, read_size=BLOCK, readers=2, compute_threads=2, restore_threads=2, budget=16 * MIB)
VM = "11111111-1111-4111-8111-111111111111"


@asynccontextmanager
async def opened(store, tmp_path):
    budget = Budget(DATA.budget)
    repository = await Repository.open(
        store,
        passphrase=None,
        cache_dir=tmp_path,
        clock=SystemClock(),
        pack_bytes=2 * MIB,
        uploads=1,
        reserve=budget.reserve_pack,
        release=budget.release_pack,
    )
    with Workers(DATA, budget) as workers:
        yield repository, workers
    await repository.close()
    assert budget.used_bytes == 0, "every buffer and pack is back"


@asynccontextmanager
async def writing(repository, point="p1"):
    session = await repository.open_session(points=[(VM, point)])
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run())
            try:
                yield session
            finally:
                session.stop()
    finally:
        await session.end()


def job(content: bytes, regions: Regions, **changes) -> DiskCopy:
    return DiskCopy(
        size_bytes=len(content),
        block_bytes=BLOCK,
        regions=regions,
        mode=ReadMode.FULL,
        unlisted=changes.pop("unlisted", "zero"),
        audit=Audit(8, Random(1)),
        **changes,
    )


def image(content: bytes, node_ids: bytes) -> DiskImage:
    return DiskImage(
        device_uuid="d",
        slot=Slot("scsi", 0),
        size_bytes=len(content),
        mode=ReadMode.FULL,
        reason="",
        block_bytes=BLOCK,
        fan_out=FAN_OUT,
        node_ids=node_ids,
    )


async def restored(repository, workers, disk_image, target):
    reader = await repository.open_reader()
    try:
        return await restore_disk(
            disk_image,
            reader=reader,
            workers=workers,
            target=target,
            meter=Meter(),
            skip_zero=True,
            readback_blocks=8,
            dice=Random(2),
        )
    finally:
        await reader.end()


@pytest.fixture
async def store():
    made = MemoryStore()
    await Repository.init(made, passphrase=None, clock=FakeClock())
    return made


async def test_full_and_incremental_on_files_with_direct_io(store, tmp_path):
    dice = Random(6)
    old = bytearray(dice.randbytes(3 * MIB) + bytes(2 * MIB) + dice.randbytes(SIZE - 5 * MIB))
    new = bytearray(old)
    new[MIB : MIB + 5000] = dice.randbytes(5000)
    new[-100:] = dice.randbytes(100)
    regions = Regions.of([Region(MIB, 5000), Region(SIZE - 512, 512)], size_bytes=SIZE)
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    async with opened(store, tmp_path / "cache") as (repository, workers):
        async with writing(repository) as session:
            with DirectDevice.open_source(tmp_path / "old") as device:
                first = await copy_disk(
                    job(old, Regions.whole(SIZE)), workers=workers, session=session, device=device, meter=Meter()
                )
            await session.flush()
        async with writing(repository, "p2") as session:
            base = await session.open_map(image(old, first.node_ids))
            change = job(new, regions, unlisted="unchanged", base_map=base, base_size_bytes=SIZE)
            with DirectDevice.open_source(tmp_path / "new") as device:
                second = await copy_disk(change, workers=workers, session=session, device=device, meter=Meter())
            await session.flush()
        assert second.bytes_new <= 3 * BLOCK
        for wanted, node_ids in ((old, first.node_ids), (new, second.node_ids)):
            target = tmp_path / "target"
            target.write_bytes(bytes(SIZE))
            with DirectDevice.open_target(target) as device:
                await restored(repository, workers, image(wanted, node_ids), device)
            assert target.read_bytes() == wanted
        verified = await restored(repository, workers, image(new, second.node_ids), None)
        assert verified.damage == ()
        assert verified.blocks_verified > 0


async def test_a_flipped_bit_in_a_pack_is_named_and_never_restored(store, tmp_path):
    content = Random(7).randbytes(SIZE)
    async with opened(store, tmp_path / "cache") as (repository, workers):
        async with writing(repository) as session:
            result = await copy_disk(
                job(content, Regions.whole(SIZE)),
                workers=workers,
                session=session,
                device=MemoryDisk(content),
                meter=Meter(),
            )
            await session.flush()
        packs = [info.name async for info in store.list("packs/")]
        stored = bytearray(await store.get(packs[0]))
        stored[len(stored) // 2] ^= 1
        await store.delete(packs[0])
        await store.create(packs[0], [bytes(stored)])
        found = await restored(repository, workers, image(content, result.node_ids), None)
        assert [damage.object_name for damage in found.damage] == [packs[0]]
        assert found.damage[0].lost_bytes <= 2 * BLOCK
        with pytest.raises(Damaged):
            await restored(repository, workers, image(content, result.node_ids), MemoryDisk(bytes(SIZE)))
        await store.delete(packs[1])
        found = await restored(repository, workers, image(content, result.node_ids), None)
        damage = {damage.object_name: damage for damage in found.damage}
        # One pack holds the map's only node: without it, nothing below can be looked for.
        assert set(damage) == set(packs[:2]) or damage[packs[1]].lost_bytes == SIZE


class FullStore(MemoryStore):
    """No room for packs from the n-th on."""

    left = 1 << 30

    async def create(self, name, parts):
        if name.startswith("packs/"):
            self.left -= 1
            if self.left < 0:
                raise StoreFull("no room", remedy="Make room.")
        await super().create(name, parts)


@pytest.mark.parametrize("room", [0, 1, 2])
async def test_a_store_that_runs_full_ends_the_copy_and_returns_everything(room, tmp_path):
    store = FullStore()
    await Repository.init(store, passphrase=None, clock=FakeClock())
    store.left = room
    content = Random(8).randbytes(SIZE)
    async with opened(store, tmp_path / "cache") as (repository, workers):

        async def backup() -> None:
            async with writing(repository) as session:
                copying = job(content, Regions.whole(SIZE))
                device = MemoryDisk(content)
                await copy_disk(copying, workers=workers, session=session, device=device, meter=Meter())
                await session.flush()

        with pytest.raises(BaseExceptionGroup) as caught:
            await backup()
        assert caught.group_contains(StoreFull)


async def test_cancelled_while_all_packs_wait_for_an_upload(tmp_path):
    class StuckStore(MemoryStore):
        def __init__(self):
            super().__init__()
            self.has_come, self.may_go = asyncio.Event(), asyncio.Event()

        async def create(self, name, parts):
            if name.startswith("packs/"):
                self.has_come.set()
                await self.may_go.wait()
            await super().create(name, parts)

    store = StuckStore()
    await Repository.init(store, passphrase=None, clock=FakeClock())
    content = Random(9).randbytes(SIZE)
    async with opened(store, tmp_path / "cache") as (repository, workers):

        async def backup() -> None:
            async with writing(repository) as session:
                await copy_disk(
                    job(content, Regions.whole(SIZE)),
                    workers=workers,
                    session=session,
                    device=MemoryDisk(content),
                    meter=Meter(),
                )

        async with asyncio.TaskGroup() as group:
            running = group.create_task(backup())
            await store.has_come.wait()
            running.cancel()
        assert running.cancelled()


async def test_a_bad_sector_is_named_exactly(store, tmp_path):
    content, bad = Random(3).randbytes(SIZE), 3 * MIB + 5 * 4096
    (tmp_path / "disk").write_bytes(content)

    def read(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset <= bad < offset + len(buffers[0]):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.preadv(fd, buffers, offset)

    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    device = DirectDevice(fd, name="bad", size_bytes=SIZE, sector_bytes=4096, is_block=False, read=read)
    async with opened(store, tmp_path / "cache") as (repository, workers), writing(repository) as session:
        copying = job(content, Regions.whole(SIZE))
        with device, pytest.raises(DeviceFault) as caught:
            await copy_disk(copying, workers=workers, session=session, device=device, meter=Meter())
    assert (caught.value.facts["offset_bytes"], caught.value.facts["length_bytes"]) == (bad, 4096)


async def test_concurrent_disks_share_what_they_hold_in_common(store, tmp_path):
    """Eight copies of one disk at once: every block is stored once, and all are whole."""
    content = Random(4).randbytes(SIZE)
    async with opened(store, tmp_path / "cache") as (repository, workers):
        async with writing(repository) as session, asyncio.TaskGroup() as group:
            copies = [
                group.create_task(
                    copy_disk(
                        job(content, Regions.whole(SIZE)),
                        workers=workers,
                        session=session,
                        device=MemoryDisk(content),
                        meter=Meter(),
                    )
                )
                for _ in range(8)
            ]
            results = [await copy for copy in copies]
            await session.flush()
        assert sum(result.bytes_new for result in results) == SIZE
        assert len({result.node_ids for result in results}) == 1
        target = MemoryDisk(bytes(SIZE))
        await restored(repository, workers, image(content, results[0].node_ids), target)
        assert target.content == content


async def test_a_verify_of_a_huge_empty_disk_is_bounded_and_quick(store, tmp_path):
    size = 1 << 39
    shape = image(b"", bytes(32 * -(-size // BLOCK // FAN_OUT)))
    async with opened(store, tmp_path / "cache") as (repository, workers):
        result = await restored(repository, workers, replace(shape, size_bytes=size), None)
    assert result.bytes_zero == size
