"""Once it is open it must still be the disk that was chosen, and a target must be empty."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.device import inquiry
from mover.device.direct import DirectDevice, measure, open_direct
from mover.device.locate import Locator
from mover.device.opening import prove_empty
from mover.errors import DeviceAbsent, DeviceBusy, DeviceRefused, MoverError
from tests.support.devicebench import OTHER, OURS, SIZE, Bench, attachment, digest, first_bytes


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_file_shorter_than_sysfs_says_is_refused_once_open(bench: Bench):
    path = bench.disk("sdb", size_bytes=SIZE // 2)
    bench.kernel.plug(path, name="sdb", vmdisk_uuid=OURS, size_bytes=SIZE)
    assert (await bench.refusal(DeviceRefused)).facts["reason"] == "changed"


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
        (errno.ENOTTY, DeviceRefused, "not-scsi"),
        (errno.EINVAL, DeviceRefused, "not-scsi"),
    ],
)
async def test_each_failure_to_ask_has_its_words(bench: Bench, monkeypatch, number, kind, reason):
    def texts(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    bench.plug()
    monkeypatch.setattr(inquiry, "texts", texts)
    error = await bench.refusal(kind)
    assert error.facts.get("reason") == reason
    assert ("SG_IO" in error.message or "INQUIRY" in error.message) == (reason is not None)
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


# --- targets ------------------------------------------------------------------------


async def test_a_target_that_holds_data_is_refused_and_closed(bench: Bench):
    path = bench.plug()
    before = digest(path)
    assert (await bench.refusal(DeviceRefused, writable=True)).facts["reason"] == "not-empty"
    assert digest(path) == before
    (await bench.locate()).close()


@pytest.mark.parametrize("offset", [0, SIZE - 1, SIZE - 65536])
def test_both_ends_are_always_looked_at(tmp_path: Path, offset: int):
    path = tmp_path / "target"
    content = bytearray(SIZE)
    content[offset] = 1
    path.write_bytes(content)
    with DirectDevice.open_source(path) as device, pytest.raises(DeviceRefused, match="holds data"):
        prove_empty(device, FakeClock().random(), samples=0)


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 65536 + 512, SIZE + 4097])
def test_an_empty_target_of_any_size_is_proven(tmp_path: Path, size: int):
    path = tmp_path / "target"
    path.write_bytes(bytes(size))
    with DirectDevice.open_source(path) as device:
        prove_empty(device, FakeClock().random())
        assert device.size_bytes == size


async def test_a_disk_that_udev_has_not_yet_given_to_its_group_is_waited_for(bench: Bench):
    bench.plug()
    tries: list[Path] = []

    def opener(path: Path, flags: int) -> int:
        tries.append(path)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_direct(path, flags)

    locator = Locator(bench.settings, bench.clock, opener=opener)
    with await locator.locate(attachment(), writable=False) as device:
        assert first_bytes(device) == b"sdbsdbsd"
    assert len(tries) == 4
    locator.close()


async def test_device_rules_that_deny_are_not_waited_for(bench: Bench):
    bench.plug()
    tries: list[Path] = []

    def opener(path: Path, flags: int) -> int:
        tries.append(path)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    locator = Locator(bench.settings, bench.clock, opener=opener)
    with pytest.raises(DeviceRefused, match="Operation not permitted"):
        await locator.locate(attachment(), writable=False)
    assert len(tries) == 1
    locator.close()
