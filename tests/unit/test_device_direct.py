"""Whole transfers or the exact range that failed: short reads, bad sectors, odd tails, many threads."""

from __future__ import annotations

import errno
import os
import threading
from mmap import mmap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.device import ioctl
from mover.device.direct import DirectDevice
from mover.errors import DeviceFault

SECTOR = 512
SIZE = 256 * SECTOR


class BadDisk:
    """A disk in memory behind ``os.preadv``'s signature: bad sectors, short transfers, late recoveries."""

    def __init__(
        self, content: bytes, *, bad: set[int] = frozenset(), most: int = 1 << 30, heals: bool = False
    ) -> None:
        self.content = bytearray(content)
        self.bad = set(bad)
        self.most = most
        self.heals = heals
        self.number = errno.EIO
        self.calls = 0

    def read(self, fd: int, buffers: list[memoryview], offset: int, /) -> int:
        count = self._check(len(buffers[0]), offset)
        buffers[0][:count] = self.content[offset : offset + count]
        return count

    def write(self, fd: int, buffers: list[memoryview], offset: int, /) -> int:
        count = self._check(len(buffers[0]), offset)
        self.content[offset : offset + count] = buffers[0][:count]
        return count

    def _check(self, length: int, offset: int) -> int:
        self.calls += 1
        count = min(length, self.most, len(self.content) - offset)
        if any(sector in self.bad for sector in range(offset // SECTOR, -(-(offset + count) // SECTOR))):
            if self.heals:
                self.bad.clear()
            raise OSError(self.number, os.strerror(self.number))
        return count

    def device(self, *, is_block: bool = False) -> DirectDevice:
        fd = os.open("/dev/null", os.O_RDWR)
        return DirectDevice(
            fd, name="bad", size_bytes=SIZE, sector_bytes=SECTOR, is_block=is_block, read=self.read, write=self.write
        )


def pattern(length: int = SIZE) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in range(-(-length // 4)))[:length]


def fault_of(disk: BadDisk, length: int = SIZE, offset: int = 0) -> DeviceFault:
    with disk.device() as device, pytest.raises(DeviceFault) as caught:
        device.read_into(memoryview(bytearray(length)), offset)
    return caught.value


@pytest.mark.parametrize("most", [SECTOR, 3 * SECTOR, 700, SIZE])
def test_short_reads_go_on_where_they_stopped(most: int):
    disk = BadDisk(pattern(), most=most)
    buffer = bytearray(SIZE)
    with disk.device() as device:
        device.read_into(memoryview(buffer), 0)
    assert buffer == pattern()


def test_short_writes_go_on_where_they_stopped():
    disk = BadDisk(bytes(SIZE), most=5 * SECTOR + 1)
    with disk.device() as device:
        device.write_from(memoryview(pattern()), 0)
    assert disk.content == pattern()


@settings(max_examples=50)
@given(st.sets(st.integers(0, 255), min_size=1, max_size=12), st.integers(0, 100), st.integers(1, 156))
def test_the_first_failing_range_is_exact(bad: set[int], first: int, count: int):
    inside = sorted(sector for sector in bad if first <= sector < first + count)
    disk = BadDisk(pattern(), bad=bad)
    if not inside:
        with disk.device() as device:
            device.read_into(memoryview(bytearray(count * SECTOR)), first * SECTOR)
        return
    error = fault_of(disk, count * SECTOR, first * SECTOR)
    run = 1
    while inside[0] + run in inside:
        run += 1
    assert (error.facts["offset_bytes"], error.facts["length_bytes"]) == (inside[0] * SECTOR, run * SECTOR)
    assert error.facts["failed_bytes"] == len(inside) * SECTOR
    assert error.facts["is_exact"]
    assert f"bytes {inside[0] * SECTOR} to {(inside[0] + run) * SECTOR - 1}" in error.message


def test_what_succeeds_when_repeated_is_no_fault():
    disk = BadDisk(pattern(), bad={7}, heals=True)
    buffer = bytearray(SIZE)
    with disk.device() as device:
        device.read_into(memoryview(buffer), 0)
    assert buffer == pattern()


def test_a_failing_write_names_its_sectors_and_writes_the_others():
    disk = BadDisk(bytes(SIZE), bad={9, 10})
    with disk.device() as device, pytest.raises(DeviceFault, match="Writing bad failed at bytes 4608 to 5631"):
        device.write_from(memoryview(pattern()), 0)
    assert disk.content[: 9 * SECTOR] == pattern()[: 9 * SECTOR]
    assert disk.content[11 * SECTOR :] == pattern()[11 * SECTOR :]


def test_a_dead_disk_is_not_probed_for_ever():
    disk = BadDisk(bytes(1 << 21), bad=set(range(4096)))
    with disk.device() as device:
        device._size_bytes = 1 << 21
        with pytest.raises(DeviceFault) as caught:
            device.read_into(memoryview(bytearray(1 << 21)), 0)
    assert disk.calls < 1200
    assert not caught.value.facts["is_exact"]
    assert caught.value.facts["failed_bytes"] == 1 << 21


@pytest.mark.parametrize("number", [errno.ENXIO, errno.ENODEV])
def test_a_disk_that_went_away_is_said_at_once(number: int):
    disk = BadDisk(pattern(), bad={3})
    disk.number = number
    error = fault_of(disk)
    assert disk.calls == 1
    assert "went away" in error.remedy
    assert (error.facts["offset_bytes"], error.facts["length_bytes"]) == (0, SIZE)


@pytest.mark.parametrize(("size_bytes", "number", "failed"), [(0, errno.ENODEV, SIZE), (SIZE, errno.EIO, SECTOR)])
def test_a_device_without_a_size_is_pulled_and_not_bad(monkeypatch, size_bytes: int, number: int, failed: int):
    monkeypatch.setattr(ioctl, "size_bytes", lambda fd: size_bytes)
    with BadDisk(pattern(), bad={3}).device(is_block=True) as device, pytest.raises(DeviceFault) as caught:
        device.read_into(memoryview(bytearray(SIZE)), 0)
    assert caught.value.facts["errno"] == number
    assert caught.value.facts["failed_bytes"] == failed
    assert ("went away" in caught.value.remedy) == (size_bytes == 0)


def test_no_space_says_so():
    disk = BadDisk(bytes(SIZE), bad={3})
    disk.number = errno.ENOSPC
    with disk.device() as device, pytest.raises(DeviceFault, match="No space left") as caught:
        device.write_from(memoryview(pattern()), 0)
    assert "Free space" in caught.value.remedy


def test_a_device_that_ends_early_is_a_fault_where_it_ends():
    error = fault_of(BadDisk(pattern()[: 100 * SECTOR]))
    assert error.facts["offset_bytes"] == 100 * SECTOR
    assert error.facts["length_bytes"] == 156 * SECTOR


@pytest.mark.parametrize(
    ("offset", "length"), [(1, SECTOR), (-SECTOR, SECTOR), (SIZE, SECTOR), (0, SIZE + 1), (0, 100)]
)
def test_ranges_that_no_caller_should_ask_for_are_errors_of_the_caller(offset: int, length: int):
    with BadDisk(pattern()).device() as device, pytest.raises(ValueError, match="bad"):
        device.read_into(memoryview(bytearray(length)), offset)


# --- real files -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 511, 4095, 4096, 4097, 1 << 16, (1 << 16) + 513])
def test_files_of_any_size_are_read_and_written_whole(tmp_path: Path, size: int):
    path = tmp_path / "disk"
    path.write_bytes(pattern(size))
    with DirectDevice.open_target(path) as device, mmap(-1, 1 << 17) as memory, memoryview(memory) as view:
        assert device.size_bytes == size
        device.read_into(view[:size], 0)
        assert bytes(view[:size]) == pattern(size)
        view[:size] = bytes(reversed(pattern(size)))
        device.write_from(view[:size], 0)
        device.flush()
        tail = size - size % 4096
        device.read_into(view[: size - tail], tail)
        assert bytes(view[: size - tail]) == bytes(reversed(pattern(size)))[tail:]
    assert path.read_bytes() == bytes(reversed(pattern(size)))


def test_reading_does_not_write(tmp_path: Path):
    path = tmp_path / "disk"
    path.write_bytes(pattern(8192))
    with DirectDevice.open_source(path) as device, mmap(-1, 4096) as memory, pytest.raises(DeviceFault):
        device.write_from(memoryview(memory), 0)
    assert path.read_bytes() == pattern(8192)


def test_close_is_idempotent_and_ends_all_use(tmp_path: Path):
    path = tmp_path / "disk"
    path.write_bytes(pattern(5000))
    device = DirectDevice.open_source(path)
    buffer = mmap(-1, 8192)
    device.read_into(memoryview(buffer)[:904], 4096)
    device.close()
    device.close()
    device.release()
    with pytest.raises(DeviceFault, match="Bad file descriptor"):
        device.read_into(memoryview(buffer)[:4096], 0)


def test_many_threads_read_one_device(tmp_path: Path):
    path = tmp_path / "disk"
    size = 4 << 20
    path.write_bytes(pattern(size))
    wrong: list[int] = []

    def reader(first: int) -> None:
        with mmap(-1, 65536) as memory, memoryview(memory) as view:
            for offset in range(first * 65536, size, 4 * 65536):
                device.read_into(view, offset)
                if int.from_bytes(view[:4], "big") != offset // 4:
                    wrong.append(offset)

    with DirectDevice.open_source(path) as device:
        threads = [threading.Thread(target=reader, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_folder_is_no_device(tmp_path: Path):
    with pytest.raises(OSError, match="directory"):
        DirectDevice.open_target(tmp_path)
