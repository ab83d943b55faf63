"""Faults and cancellation in the middle of a disk: the first error wins, nothing leaks, nobody hangs."""

from __future__ import annotations

import asyncio
import threading
from random import Random

import pytest

from mover.clock import FakeClock
from mover.errors import Damaged, DeviceFault, DeviceRefused, StoreUnreachable
from mover.model.point import ID_BYTES, ReadMode
from mover.model.region import Regions
from mover.pipeline.disk_to_repository import DiskCopy, copy_disk
from mover.pipeline.flow import Meter
from mover.pipeline.plan import Audit
from tests.support.plaincopies import BLOCK, Nth, assert_nothing_leaked, full, restore, restored, workers
from tests.support.plainrepo import MemoryDisk, PlainMap, PlainRepository
from tests.support.repositories import until

SIZE = 24 * BLOCK + 100
CONTENT = Random(4).randbytes(SIZE)


def eio(offset: int) -> DeviceFault:
    return DeviceFault("EIO", remedy="Replace the disk.", offset_bytes=offset, length_bytes=512)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
@pytest.mark.parametrize("name", ["read", "store_block"])
async def test_nth_failure_of_a_copy(name, n):
    error = eio(4096)
    fault = Nth(name, n, error)
    disk = MemoryDisk(CONTENT, fault if name == "read" else lambda *_: None)
    repository = PlainRepository(fault)
    with workers() as pool:
        with pytest.raises(DeviceFault) as caught:
            await full(repository, disk, pool)
        assert caught.value is error
        assert_nothing_leaked(pool)
        disk.close()
        again = await full(repository, disk, pool)
        assert (await restored(repository, again.node_ids, SIZE, pool))[0] == CONTENT


@pytest.mark.parametrize("name", ["none", "read", "lie"])
async def test_the_scratch_space_of_a_map_is_let_go_however_the_copy_ends(name):
    repository = PlainRepository()
    disk = MemoryDisk(CONTENT, Nth(name, 3, eio(0)))
    half = Regions.whole(BLOCK) if name == "lie" else Regions.whole(SIZE)
    with workers() as pool:
        if name == "read":
            with pytest.raises(DeviceFault):
                await full(repository, disk, pool, regions=half)
        else:
            assert (await full(repository, disk, pool, regions=half)).mismatch == (name == "lie")
    assert [one.is_closed for one in repository.maps] == [True] * (2 if name == "lie" else 1)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ["open_map", "locate", "fetch", "open_block", "write", "flush", "read"])
async def test_nth_failure_of_a_restore(name, n):
    if name in ("open_map", "locate", "flush") and n > 1:
        n = 1
    repository = PlainRepository()
    with workers() as pool:
        node_ids = (await full(repository, MemoryDisk(CONTENT), pool)).node_ids
        error = StoreUnreachable("no answer", remedy="Look at the store.")
        fault = Nth(name, n, error)
        repository.fault = fault
        target = MemoryDisk(bytes(SIZE), fault)
        with pytest.raises(StoreUnreachable) as caught:
            await restore(repository, node_ids, SIZE, pool, target)
        assert caught.value is error
        assert_nothing_leaked(pool)
        target.close()
        repository.fault = lambda _: None
        assert (await restored(repository, node_ids, SIZE, pool))[0] == CONTENT


async def test_many_failures_at_once_give_one_error():
    def fault(name: str, offset: int = 0) -> None:
        if name == "read" and offset >= 6 * BLOCK:
            raise eio(offset)

    with workers() as pool:
        with pytest.raises(DeviceFault):
            await full(PlainRepository(), MemoryDisk(CONTENT, fault), pool)
        assert_nothing_leaked(pool)


async def test_a_damaged_base_map_ends_the_copy():
    class BadMap(PlainMap):
        async def ids(self, first_block: int, count: int) -> bytes:
            raise Damaged("node 3", remedy="none")

    job = DiskCopy(
        size_bytes=SIZE,
        block_bytes=BLOCK,
        regions=Regions.of([], size_bytes=SIZE),
        mode=ReadMode.INCREMENTAL,
        unlisted="unchanged",
        audit=Audit(4, Random(1)),
        base_map=BadMap(bytearray(25 * ID_BYTES)),
        base_size_bytes=SIZE,
    )
    with workers() as pool:
        with pytest.raises(Damaged):
            await copy_disk(job, workers=pool, session=PlainRepository(), device=MemoryDisk(CONTENT), meter=Meter())
        assert_nothing_leaked(pool)


class Turnstile:
    """Holds threads at one call until opened; tells when the first has come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_come = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.open = threading.Event()

    def __call__(self, name: str, offset: int = 0) -> None:
        if name == self.name:
            self.loop.call_soon_threadsafe(self.has_come.set)
            assert self.open.wait(20)


@pytest.mark.parametrize("name", ["read", "store_block"])
async def test_a_copy_cancelled_in_the_middle_leaves_nothing(name):
    gate = Turnstile(name)
    disk = MemoryDisk(CONTENT, gate)
    with workers() as pool:
        async with asyncio.TaskGroup() as group:
            copying = group.create_task(full(PlainRepository(gate), disk, pool))
            await gate.has_come.wait()
            copying.cancel()
            await asyncio.wait([copying], timeout=0.05)
            assert not copying.done(), "it must wait for the thread that still uses the device"
            gate.open.set()
        assert copying.cancelled()
        assert_nothing_leaked(pool)
        disk.close()


@pytest.mark.parametrize("name", ["write", "open_block", "read"])
async def test_a_restore_cancelled_in_the_middle_leaves_nothing(name):
    repository = PlainRepository()
    with workers() as pool:
        node_ids = (await full(repository, MemoryDisk(CONTENT), pool)).node_ids
        gate = Turnstile(name)
        repository.fault = gate
        target = MemoryDisk(bytes(SIZE), gate)
        async with asyncio.TaskGroup() as group:
            restoring = group.create_task(restore(repository, node_ids, SIZE, pool, target))
            await gate.has_come.wait()
            restoring.cancel()
            gate.open.set()
        assert restoring.cancelled()
        assert_nothing_leaked(pool)
        target.close()


async def test_eight_disks_share_threads_and_budget():
    repository = PlainRepository()
    contents = [Random(seed).randbytes(SIZE) for seed in range(8)]
    with workers() as pool:
        results = await asyncio.gather(*(full(repository, MemoryDisk(c), pool) for c in contents))
        outcomes = await asyncio.gather(*(restored(repository, r.node_ids, SIZE, pool) for r in results))
        assert [outcome[0] for outcome in outcomes] == contents
        assert_nothing_leaked(pool)


async def test_one_disk_failing_leaves_its_sibling_alone():
    repository = PlainRepository()
    bad = MemoryDisk(CONTENT, Nth("read", 3, eio(0)))
    with workers() as pool:
        failed, fine = await asyncio.gather(
            full(repository, bad, pool), full(repository, MemoryDisk(CONTENT), pool), return_exceptions=True
        )
        assert isinstance(failed, DeviceFault)
        assert (await restored(repository, fine.node_ids, SIZE, pool))[0] == CONTENT


async def test_a_device_of_another_size_is_refused():
    job_size = SIZE + 512
    job = DiskCopy(
        size_bytes=job_size,
        block_bytes=BLOCK,
        regions=Regions.whole(job_size),
        mode=ReadMode.FULL,
        unlisted="zero",
        audit=Audit(0, FakeClock().random()),
    )
    with workers() as pool:
        with pytest.raises(DeviceRefused, match=str(job_size)):
            await copy_disk(job, workers=pool, session=PlainRepository(), device=MemoryDisk(CONTENT), meter=Meter())
        node_ids = (await full(PlainRepository(), MemoryDisk(CONTENT), pool)).node_ids
        with pytest.raises(DeviceRefused, match="the image"):
            await restore(PlainRepository(), node_ids, SIZE, pool, MemoryDisk(bytes(SIZE - 1)))


async def test_a_call_is_waited_for_however_often_its_caller_is_cancelled():
    begun, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        may_end.wait(10)
        has_ended.set()
        raise ValueError("nobody hears of this")

    with workers() as pool:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(pool.blocking(call))
            await until(begun.is_set)
            for _ in range(3):
                task.cancel()
                for _ in range(5):
                    await asyncio.sleep(0)
            assert not task.done()
            may_end.set()
        assert task.cancelled()
        assert has_ended.is_set()
