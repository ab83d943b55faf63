"""What every device owes: loop devices of 512 and 4096 bytes a sector, and a direct-I/O file.

The loop devices are found through a fake kernel folder, so the whole way from attachment
to proven, open device is the real one: O_EXCL, flock, BLKROSET and sequence numbers are
the kernel's own.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from mmap import mmap
from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.config import NodeSettings
from mover.device import inquiry, ioctl
from mover.device.direct import DirectDevice
from mover.device.locate import Locator
from mover.errors import DeviceBusy, DeviceFault, DeviceRefused
from mover.model.machine import Attachment, Slot
from tests.support.fakekernel import FakeKernel
from tests.support.loopback import loop, needs_loops

OURS = "7c174117-320b-480f-ac05-b0f622127511"
OTHER = "b29f577f-1354-4c4a-ae12-f3809dea44cf"
SIZE = 4 << 20


class Plugged:
    """One disk of zeroes (or what a test writes into ``backing``), plugged as a kind of device."""

    def __init__(self, folder: Path, backing: Path, device: Path) -> None:
        self.backing = backing
        self.device = device
        self.kernel = FakeKernel(folder / "root")
        self.kernel.plug(device, name="sdb", vmdisk_uuid=OURS)
        self.clock = FakeClock()
        settings = NodeSettings(device_root=folder / "root", allow_regular_files=device == backing)
        self.locator = Locator(settings, self.clock)

    async def open(self, *, writable: bool, size_bytes: int = SIZE) -> DirectDevice:
        attachment = Attachment("proxy", Slot("scsi", 3), OURS, "device", size_bytes)
        return await self.locator.locate(attachment, writable=writable)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "disk.raw").write_bytes(b"")
    os.truncate(tmp_path / "disk.raw", SIZE)
    return tmp_path


@pytest.fixture(
    params=[
        pytest.param(512, id="loop512", marks=needs_loops),
        pytest.param(4096, id="loop4096", marks=needs_loops),
        pytest.param(0, id="file"),
    ]
)
def plugged(folder: Path, request: pytest.FixtureRequest) -> Iterator[Plugged]:
    backing = folder / "disk.raw"
    with ExitStack() as stack:
        device = stack.enter_context(loop(backing, sector_bytes=request.param)) if request.param else backing
        disk = Plugged(folder, backing, device)
        stack.callback(disk.locator.close)
        yield disk


@pytest.fixture
def page() -> Iterator[memoryview]:
    with mmap(-1, 1 << 20) as memory, memoryview(memory) as view:
        yield view


def pattern(offset: int, length: int) -> bytes:
    return b"".join((offset + at).to_bytes(8, "big") for at in range(0, length, 8))


async def test_it_knows_its_size_sector_and_name(plugged: Plugged):
    with await plugged.open(writable=False) as device:
        assert device.size_bytes == SIZE
        assert device.sector_bytes in (512, 4096)
        assert device.is_direct
        assert "scsi.3" in device.name
        assert OURS in device.name


async def test_what_was_written_is_read_back(plugged: Plugged, page: memoryview):
    with await plugged.open(writable=True) as device:
        sector = device.sector_bytes
        for offset, length in ((0, sector), (sector, 1 << 20), (SIZE - sector, sector)):
            page[:length] = pattern(offset, length)
            device.write_from(page[:length], offset)
        device.flush()
        for offset, length in ((0, sector), (sector, 1 << 20), (SIZE - sector, sector)):
            page[:length] = bytes(length)
            device.read_into(page[:length], offset)
            assert bytes(page[:length]) == pattern(offset, length)
    assert plugged.backing.read_bytes()[: sector + 8] == pattern(0, sector) + pattern(sector, 8)


async def test_a_source_is_read_by_many_threads(plugged: Plugged):
    plugged.backing.write_bytes(pattern(0, SIZE))
    wrong: list[int] = []

    def reader(first: int) -> None:
        with mmap(-1, 65536) as memory, memoryview(memory) as view:
            for offset in range(first * 65536, SIZE, 4 * 65536):
                device.read_into(view, offset)
                if bytes(view[:8]) != pattern(offset, 8):
                    wrong.append(offset)

    with await plugged.open(writable=False) as device:
        threads = [threading.Thread(target=reader, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


async def test_a_source_cannot_be_written(plugged: Plugged, page: memoryview):
    plugged.backing.write_bytes(pattern(0, SIZE))
    with await plugged.open(writable=False) as device:
        page[:4096] = bytes(4096)
        with pytest.raises(DeviceFault):
            device.write_from(page[:4096], 0)
    assert plugged.backing.read_bytes() == pattern(0, SIZE)


async def test_nobody_gets_it_twice_and_everybody_after_release(plugged: Plugged):
    device = await plugged.open(writable=False)
    with pytest.raises(DeviceBusy):
        await plugged.open(writable=True)
    other = Plugged.__new__(Plugged)
    other.locator = Locator(plugged.locator._settings, plugged.clock)
    with pytest.raises(DeviceBusy):
        await other.open(writable=False)
    other.locator.close()
    device.release()
    device.release()
    (await plugged.open(writable=True)).close()


async def test_a_target_with_data_is_refused(plugged: Plugged):
    plugged.backing.write_bytes(pattern(8, SIZE))
    with pytest.raises(DeviceRefused, match="holds data"):
        await plugged.open(writable=True)
    assert plugged.backing.read_bytes() == pattern(8, SIZE)


async def test_another_size_than_prisms_is_refused(plugged: Plugged):
    with pytest.raises(DeviceRefused):
        await plugged.open(writable=False, size_bytes=SIZE + 4096)


async def test_a_device_that_sysfs_describes_larger_is_refused(plugged: Plugged):
    plugged.kernel.set("sdb", "size", f"{SIZE // 512 + 8}\n")
    with pytest.raises(DeviceRefused) as caught:
        await plugged.open(writable=False, size_bytes=SIZE + 4096)
    assert caught.value.facts["reason"] == "changed"


async def test_ranges_off_the_sectors_are_the_callers_error(plugged: Plugged, page: memoryview):
    with await plugged.open(writable=False) as device:
        for offset, length in ((1, 4096), (0, 4097), (SIZE, 4096)):
            with pytest.raises(ValueError, match="sdb"):
                device.read_into(page[:length], offset)


# --- what only block devices can show ---------------------------------------------------


@pytest.fixture
def block(folder: Path) -> Iterator[Plugged]:
    with loop(folder / "disk.raw") as device:
        disk = Plugged(folder, folder / "disk.raw", device)
        yield disk
        disk.locator.close()


@pytest.fixture
def mounted(block: Plugged, tmp_path: Path) -> Iterator[Plugged]:
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(block.device)], check=True)
    subprocess.run(["mount", str(block.device), str(place)], check=True)
    yield block
    subprocess.run(["umount", str(place)], check=True)


def marked(function):
    for mark in needs_loops:
        function = mark(function)
    return function


def is_read_only(device: Path) -> bool:
    with device.open("rb") as file:
        return ioctl.is_read_only(file.fileno())


@marked
async def test_a_source_is_read_only_for_everybody_while_it_is_open(block: Plugged):
    device = await block.open(writable=False)
    assert is_read_only(block.device)
    with block.device.open("rb+", buffering=0) as other, pytest.raises(PermissionError):
        other.write(bytes(4096))
    device.close()
    assert not is_read_only(block.device)


@marked
async def test_a_device_that_the_kernel_holds_is_busy(block: Plugged):
    fd = os.open(block.device, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(DeviceBusy, match="exclusively"):
            await block.open(writable=False)
    finally:
        os.close(fd)
    (await block.open(writable=False)).close()


@marked
@pytest.mark.parametrize("writable", [False, True])
async def test_a_mounted_device_is_busy_even_if_no_list_shows_the_mount(mounted: Plugged, writable: bool):
    """A mount in another namespace: the fake mountinfo does not know of it, the kernel does."""
    with pytest.raises(DeviceBusy):
        await mounted.open(writable=writable)


@marked
async def test_the_number_of_another_device_is_refused_unread(block: Plugged, tmp_path: Path):
    """sysfs describes our disk, the node leads to a stranger of the same size."""
    stranger = tmp_path / "stranger.raw"
    stranger.write_bytes(b"")
    os.truncate(stranger, SIZE)
    with loop(stranger) as other:
        node = block.kernel.root / "dev/sdb"
        node.unlink()
        node.symlink_to(other)
        with pytest.raises(DeviceRefused) as caught:
            await block.open(writable=True)
        assert caught.value.facts["reason"] == "changed"
        assert not is_read_only(other)


@marked
async def test_a_reused_number_is_told_by_its_sequence(block: Plugged):
    block.kernel.set("sdb", "diskseq", "1\n")
    with pytest.raises(DeviceRefused, match="sequence number"):
        await block.open(writable=False)
    assert not is_read_only(block.device)


@marked
async def test_reads_that_fail_in_the_kernel_name_their_exact_range(block: Plugged, page: memoryview):
    """A loop device gives EIO where its file has ended: a real fault of a real driver."""
    cut = (1 << 20) + 3 * 4096
    with await block.open(writable=False) as device:
        os.truncate(block.backing, cut)
        device.read_into(page[:4096], cut - 4096)
        with pytest.raises(DeviceFault) as caught:
            device.read_into(page, 1 << 20)
    assert caught.value.facts["errno"] == errno.EIO
    assert caught.value.facts["offset_bytes"] == cut
    assert caught.value.facts["length_bytes"] == (1 << 20) - 3 * 4096


@marked
@pytest.mark.parametrize("writable", [False, True])
async def test_a_block_device_of_another_kind_that_knows_no_inquiry_is_refused_untouched(
    block: Plugged, monkeypatch: pytest.MonkeyPatch, writable: bool
):
    """What a loop device answers to SG_IO is what virtio-blk and NVMe answer."""
    monkeypatch.setattr(inquiry, "_LOOP", 254)
    with pytest.raises(DeviceRefused, match="is no SCSI disk") as caught:
        await block.open(writable=writable)
    assert caught.value.facts["reason"] == "not-scsi"
    assert not is_read_only(block.device)
