"""Proven or refused: every way in which a disk can be another than it seems."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.device import bus, inquiry
from mover.device.direct import measure, open_direct
from mover.device.locate import Locator
from mover.errors import DeviceAbsent, DeviceBusy, DeviceRefused, MoverError
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


async def test_a_file_shorter_than_sysfs_says_is_refused_once_open(bench: Bench):
    path = bench.disk("sdb", size_bytes=SIZE // 2)
    bench.kernel.plug(path, name="sdb", vmdisk_uuid=OURS, size_bytes=SIZE)
    assert (await bench.refusal(DeviceRefused)).facts["reason"] == "changed"


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


async def test_a_file_is_no_device_unless_allowed(bench: Bench):
    bench.plug()
    error = await bench.refusal(DeviceRefused, allow_regular_files=False)
    assert error.facts["reason"] == "not-a-device"


async def test_a_missing_node_is_absent_and_said(bench: Bench):
    bench.plug()
    (bench.kernel.root / "dev/sdb").unlink()
    assert "/dev/sdb" in (await bench.refusal(DeviceAbsent)).message


async def test_our_own_open_disk_is_not_given_out_twice(bench: Bench):
    bench.plug()
    locator = Locator(bench.settings, bench.clock)
    first = await locator.locate(attachment(), writable=False)
    with pytest.raises(DeviceBusy, match="this mover"):
        await locator.locate(attachment(), writable=False)
    first.release()
    (await locator.locate(attachment(), writable=False)).close()
    locator.close()


async def test_a_disk_locked_by_another_process_is_busy(bench: Bench):
    bench.plug()
    with await bench.locate():
        assert "locked" in (await bench.refusal(DeviceBusy)).message


# --- what changes between the proof and the open -------------------------------------


def replaced(bench: Bench) -> None:
    bench.kernel.unplug("sdb")
    bench.plug("sdb", OTHER)


def same_again(bench: Bench) -> None:
    """The same identity on another disk: only the sequence number differs."""
    bench.kernel.set("sdb", "diskseq", "4711\n")


def resized(bench: Bench) -> None:
    bench.kernel.set("sdb", "size", f"{SIZE // 512 + 1}\n")


def gone(bench: Bench) -> None:
    bench.kernel.unplug("sdb")


def taken(bench: Bench) -> None:
    bench.kernel.hold("sdb", "dm-0")


@pytest.mark.parametrize("meanwhile", [replaced, same_again, resized, gone, taken])
async def test_a_change_while_it_is_opened_is_refused_unread(bench: Bench, meanwhile: Callable[[Bench], None]):
    bench.plug()
    opened: list[int] = []

    def opener(path: Path, flags: int) -> int:
        fd = open_direct(path, flags)
        opened.append(fd)
        meanwhile(bench)
        return fd

    locator = Locator(bench.settings, bench.clock, opener=opener)
    with pytest.raises(DeviceRefused) as caught:
        await locator.locate(attachment(), writable=False)
    assert caught.value.facts["reason"] == "changed"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    locator.close()


SAYS_OTHER = f"NUTANIX NFS_4_0_289_{OTHER.replace('-', '_')}"


@pytest.mark.parametrize("said", [(SAYS_OTHER,), (SAYS_OTHER, OURS), ("6506b8d9aabbccdd",), ()])
async def test_a_disk_that_answers_another_name_than_sysfs_has_is_refused(bench: Bench, monkeypatch, said):
    bench.plug()
    monkeypatch.setattr(inquiry, "texts", lambda fd: said)
    error = await bench.refusal(DeviceRefused)
    assert error.facts["reason"] == "changed"
    assert "it answers that it is" in error.message


@pytest.mark.parametrize("said", [(OURS.upper(),), None])
async def test_a_disk_that_answers_as_sysfs_says_or_cannot_be_asked_is_taken(bench: Bench, monkeypatch, said):
    bench.plug()
    monkeypatch.setattr(inquiry, "texts", lambda fd: said)
    with await bench.locate() as device:
        assert first_bytes(device) == b"sdbsdbsd"


async def test_what_the_disk_itself_answers_proves_it_where_the_kernel_kept_no_pages(bench: Bench, monkeypatch):
    bench.plug(in_kernel=False)
    monkeypatch.setattr(inquiry, "texts", lambda fd: (f"NFS_4_0_1_{OURS}",))
    with await bench.locate() as device:
        assert first_bytes(device) == b"sdbsdbsd"


@pytest.mark.parametrize("said", [(SAYS_OTHER,), ("6506b8d9aabbccdd",), ()])
async def test_a_name_of_udevs_that_the_disk_does_not_bear_out_is_refused(bench: Bench, monkeypatch, said):
    bench.plug(in_kernel=False)
    monkeypatch.setattr(inquiry, "texts", lambda fd: said)
    assert (await bench.refusal(DeviceRefused)).facts["reason"] == "changed"


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.ENXIO, DeviceAbsent, None),
        (errno.EPERM, DeviceRefused, "rights"),
        (errno.EACCES, DeviceRefused, "rights"),
        (errno.EIO, DeviceRefused, "unreadable"),
    ],
)
async def test_each_failure_to_ask_has_its_words(bench: Bench, monkeypatch, number, kind, reason):
    def texts(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    bench.plug()
    monkeypatch.setattr(inquiry, "texts", texts)
    error = await bench.refusal(kind)
    assert error.facts.get("reason") == reason
    assert ("SG_IO" in error.message) == (reason is not None)
    assert ("seccomp" in error.remedy) == (reason == "rights")


async def test_another_file_under_the_same_name_is_refused(bench: Bench):
    bench.plug()
    decoy = bench.disk("decoy")

    def opener(path: Path, flags: int) -> int:
        path.unlink()
        path.symlink_to(decoy)
        return open_direct(path, flags)

    locator = Locator(bench.settings, bench.clock, opener=opener)
    with pytest.raises(DeviceRefused, match="another file"):
        await locator.locate(attachment(), writable=False)
    locator.close()


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.EACCES, DeviceRefused, "rights"),
        (errno.EROFS, DeviceRefused, "read-only"),
        (errno.EIO, DeviceRefused, "unreadable"),
        (errno.EBUSY, DeviceBusy, None),
        (errno.ENXIO, DeviceAbsent, None),
    ],
)
async def test_each_failure_to_open_has_its_words(
    bench: Bench, number: int, kind: type[MoverError], reason: str | None
):
    bench.plug()

    def opener(path: Path, flags: int) -> int:
        raise OSError(number, os.strerror(number))

    locator = Locator(bench.settings, bench.clock, opener=opener)
    with pytest.raises(kind) as caught:
        await locator.locate(attachment(), writable=False)
    assert caught.value.facts.get("reason") == reason
    locator.close()


async def test_a_disk_that_goes_away_while_it_is_looked_at_may_come_back(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.plug()
    failures = [errno.ENODEV, errno.ENXIO]

    def flaky(fd: int) -> tuple[int, int]:
        if failures:
            raise OSError(failures.pop(), "gone")
        return measure(fd)

    monkeypatch.setattr("mover.device.opening.measure", flaky)
    with await bench.locate() as device:
        assert device.size_bytes == SIZE


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
    task = asyncio.create_task(locator.locate(attachment(), writable=False))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proceed.set()
    locator._threads.shutdown(wait=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
