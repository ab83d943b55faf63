"""Proven or refused: every way in which a disk can be another than it seems."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.device import bus
from mover.device.direct import open_direct
from mover.device.locate import Locator
from mover.errors import DeviceAbsent, DeviceBusy, DeviceRefused
from tests.support.devicebench import OTHER, OURS, SIZE, Bench, attachment, digest, first_bytes, locate
from tests.support.fakekernel import FakeKernel


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_the_disk_that_carries_the_uuid_is_opened_among_others(bench: Bench):
    bench.plug("sda", OTHER)
    bench.plug("sdb", OURS)
    bench.plug("sdc", "00000000-0000-4000-8000-000000000000")
    with await bench.locate() as device:
        assert first_bytes(device) == b"sdbsdbsd"
        assert device.size_bytes == SIZE
        assert OURS in device.name


@pytest.mark.parametrize("how", [{"in_links": False}, {"in_kernel": False}])
async def test_pages_or_links_alone_are_enough(bench: Bench, how: dict[str, bool]):
    bench.plug(**how)
    with await bench.locate() as device:
        assert first_bytes(device) == b"sdbsdbsd"


async def test_a_disk_that_comes_late_is_waited_for(bench: Bench):
    class LateClock(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.elapsed > 12 and not (bench.kernel.root / "sys/block/sdb").exists():
                bench.plug()

    bench.clock = LateClock()
    with await bench.locate() as device:
        assert device.size_bytes == SIZE
    assert 12 < bench.clock.elapsed < 14


async def test_a_disk_that_never_comes_is_absent_after_the_timeout_with_what_was_seen(bench: Bench):
    bench.plug("sdc", OTHER)
    error = await bench.refusal(DeviceAbsent)
    assert 30 <= bench.clock.elapsed < 31
    assert "sdc" in error.message
    assert "NFS_4_0_289_b29f577f" in error.message


async def test_disks_and_hosts_are_asked_to_look_again_but_not_what_is_being_read(bench: Bench, monkeypatch):
    monkeypatch.setattr(bus, "_REAL", bench.kernel.root)
    asked = {}
    for name, uuid in (("sdb", OURS), ("sdc", OTHER)):
        bench.plug(name, uuid)
        asked[name] = bench.kernel.root / "sys/block" / name / "device/rescan"
        asked[name].write_text("")
    asked["host"] = bench.kernel.root / "sys/class/scsi_host/host0/scan"
    asked["host"].parent.mkdir(parents=True)
    asked["host"].write_text("")
    locator = Locator(bench.settings, bench.clock)
    with await locator.locate(attachment(), writable=False), pytest.raises(DeviceAbsent):
        await locator.locate(attachment("11111111-0000-4000-8000-000000000000"), writable=False)
    locator.close()
    assert {name: file.read_text() for name, file in asked.items()} == {"sdb": "", "sdc": "1", "host": "- - -"}


async def test_a_disk_half_described_is_not_there_yet(bench: Bench):
    bench.plug(size_bytes=0)
    await bench.refusal(DeviceAbsent)


@pytest.mark.parametrize("seen", [SIZE - 512, SIZE + 512, SIZE * 2])
@pytest.mark.parametrize("writable", [False, True])
async def test_another_size_is_refused_and_not_touched(bench: Bench, seen: int, writable: bool):
    path = bench.plug(size_bytes=seen)
    before = digest(path)
    error = await bench.refusal(DeviceRefused, writable=writable)
    assert error.facts["reason"] == "size"
    assert digest(path) == before
    assert bench.clock.elapsed == 0


async def test_two_disks_of_one_uuid_are_both_refused(bench: Bench):
    paths = [bench.plug("sdb"), bench.plug("sdc")]
    before = [digest(path) for path in paths]
    error = await bench.refusal(DeviceRefused, writable=True)
    assert error.facts["reason"] == "duplicate"
    assert "sdb" in error.message
    assert "sdc" in error.message
    assert [digest(path) for path in paths] == before


async def test_a_disk_that_names_two_vmdisks_is_refused(bench: Bench):
    bench.plug()
    bench.kernel.set("sdb", "device/wwid", f"t10.NUTANIX NFS_1_0_5_{OTHER.replace('-', '_')}\n")
    assert (await bench.refusal(DeviceRefused)).facts["reason"] == "contradiction"


async def test_a_stale_link_to_a_stranger_is_no_proof(bench: Bench):
    path = bench.plug("sdb", OTHER)
    bench.kernel.link(f"scsi-1NUTANIX_NFS_4_0_289_{OURS.replace('-', '_')}", "sdb")
    before = digest(path)
    await bench.refusal(DeviceAbsent, writable=True)
    assert digest(path) == before


async def test_a_decoy_of_the_same_size_stays_as_it_was(bench: Bench):
    decoy = bench.plug("sdb", OTHER)
    path = bench.disk("sdc", empty=True)
    bench.kernel.plug(path, name="sdc", vmdisk_uuid=OURS)
    before = digest(decoy)
    with await bench.locate(writable=True) as device, mmap(-1, 4096) as page, memoryview(page) as view:
        view[:4] = b"here"
        device.write_from(view, 0)
    assert path.read_bytes()[:4] == b"here"
    assert digest(decoy) == before


@pytest.mark.parametrize("uuid", ["", "7c174117", "7c174117-320b-480f-ac05"])
async def test_an_empty_or_cut_uuid_finds_nothing(bench: Bench, uuid: str):
    bench.plug()
    with pytest.raises(DeviceRefused, match="no usable vmdisk UUID"):
        await locate(attachment(uuid), settings=bench.settings, clock=bench.clock, writable=False)


def holder(kernel: FakeKernel) -> None:
    kernel.hold("sdb", "dm-3")


def held_partition(kernel: FakeKernel) -> None:
    kernel.partition("sdb", 2, dev="8:18", holder="md127")


def mounted(kernel: FakeKernel) -> None:
    kernel.mount(number=kernel.number("sdb"), source="/dev/mapper/x", target="/mnt/my\\040disk")


def mounted_partition(kernel: FakeKernel) -> None:
    kernel.partition("sdb", 1, dev="8:17")
    kernel.mount(number="8:17", source="/dev/root", target="/")


def mounted_by_source(kernel: FakeKernel) -> None:
    kernel.partition("sdb", 1, dev="8:17")
    kernel.mount(number="0:35", source="/dev/sdb1", target="/")


def swap(kernel: FakeKernel) -> None:
    (kernel.root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/sdb partition 1 0 -2\n")


@pytest.mark.parametrize("use", [holder, held_partition, mounted, mounted_partition, mounted_by_source, swap])
async def test_a_disk_in_use_is_busy_after_a_short_patience(bench: Bench, use: Callable[[FakeKernel], None]):
    path = bench.plug()
    before = digest(path)
    use(bench.kernel)
    error = await bench.refusal(DeviceBusy, writable=True)
    assert "sdb" in error.message
    assert 5 <= bench.clock.elapsed < 6
    assert digest(path) == before


async def test_a_disk_that_is_probed_for_a_moment_is_waited_for(bench: Bench):
    bench.plug()
    bench.kernel.hold("sdb", "dm-9")

    class Freeing(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.elapsed > 2 and list((bench.kernel.root / "sys/block/sdb/holders").iterdir()):
                (bench.kernel.root / "sys/block/sdb/holders/dm-9").rmdir()

    bench.clock = Freeing()
    with await bench.locate() as device:
        assert device.size_bytes == SIZE


async def test_mounts_that_cannot_be_read_prove_nothing(bench: Bench):
    bench.plug()
    (bench.kernel.root / "proc/self/mountinfo").unlink()
    error = await bench.refusal(DeviceRefused)
    assert "mountinfo" in error.message


async def test_a_cancelled_search_leaves_nothing_open(bench: Bench):
    bench.plug()
    entered, opened = asyncio.Event(), []
    loop = asyncio.get_running_loop()
    proceed = threading.Event()

    def opener(path: Path, flags: int) -> int:
        fd = open_direct(path, flags)
        opened.append(fd)
        loop.call_soon_threadsafe(entered.set)
        assert proceed.wait(5)
        return fd

    locator = Locator(bench.settings, bench.clock, opener=opener)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(locator.locate(attachment(), writable=False))
        await entered.wait()
        task.cancel()
    assert task.cancelled()
    proceed.set()
    locator._threads.shutdown(wait=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
