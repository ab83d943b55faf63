"""What the kernel asks for before block devices may be used: the table in deploy/container/README.md, tried."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mover.config import Settings
from mover.device import ioctl
from mover.device.container import inspect_below
from mover.device.rights import RunningKernel
from tests.support.lesser import MKNOD, SYS_ADMIN, device_group, lesser, no_device_groups
from tests.support.loopback import loop, needs_loops

pytestmark = needs_loops
needs_device_groups = pytest.mark.skipif(no_device_groups() is not None, reason=str(no_device_groups()))

USER, DISK = 10001, 6
READ, WRITE = os.O_RDONLY | os.O_DIRECT | os.O_EXCL, os.O_RDWR | os.O_DIRECT | os.O_EXCL
ALL = {"read": 0, "write": 0, "facts": 0, "lock": 0, "set read-only": 0}
CHARACTERS = "c *:* rwm"


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A block device as udev leaves it: of root and the group disk."""
    file = tmp_path_factory.mktemp("disk") / "raw"
    file.write_bytes(bytes(1 << 20))
    with loop(file) as device:
        os.chown(device, 0, DISK)
        device.chmod(0o660)
        yield device


def tried(disk: Path) -> dict[str, int]:
    """Each thing that a backup or restore does to a disk → 0, or the errno that it met."""
    met = {"read": _met(lambda: _opened(disk, READ)), "write": _met(lambda: _opened(disk, WRITE))}
    if met["read"]:
        return met
    fd = os.open(disk, READ)
    met["facts"] = _met(lambda: (ioctl.size_bytes(fd), ioctl.sector_bytes(fd), ioctl.disk_sequence(fd)))
    met["lock"] = _met(lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    met["set read-only"] = _met(lambda: ioctl.set_read_only(fd, on=True))
    if not met["set read-only"]:
        ioctl.set_read_only(fd, on=False)
    os.close(fd)
    return met


def _opened(disk: Path, flags: int) -> None:
    os.close(os.open(disk, flags))


def _met(work: Callable[[], Any]) -> int:
    try:
        work()
    except OSError as error:
        return error.errno or -1
    return 0


def test_root_with_one_capability_may_do_all(disk):
    assert lesser(lambda: tried(disk), capabilities=[SYS_ADMIN]) == ALL


def test_root_without_any_may_do_all_but_set_read_only(disk):
    assert lesser(lambda: tried(disk)) == {**ALL, "set read-only": errno.EACCES}


def test_another_user_in_the_group_disk_with_the_capability_may_do_all(disk):
    assert lesser(lambda: tried(disk), user=USER, groups=[DISK], capabilities=[SYS_ADMIN]) == ALL


def test_another_user_without_the_capability_may_do_all_but_set_read_only(disk):
    assert lesser(lambda: tried(disk), user=USER, groups=[DISK]) == {**ALL, "set read-only": errno.EACCES}


def test_another_user_outside_of_the_group_may_not_open_it(disk):
    expected = {"read": errno.EACCES, "write": errno.EACCES}
    assert lesser(lambda: tried(disk), user=USER, capabilities=[SYS_ADMIN]) == expected


def test_in_a_user_namespace_the_capability_is_worth_nothing(disk):
    met = lesser(lambda: tried(disk), in_user_namespace=True)
    assert met == {**ALL, "set read-only": errno.EACCES}
    assert findings(in_user_namespace=True)["capability"].stops


@needs_device_groups
def test_device_rules_come_before_every_other_right(disk):
    with device_group(CHARACTERS) as group:
        denied = lesser(lambda: tried(disk), group=group, capabilities=None)
    assert denied == {"read": errno.EPERM, "write": errno.EPERM}
    major = os.major(disk.stat().st_rdev)
    with device_group(CHARACTERS, f"b {major}:* rw") as group:
        assert lesser(lambda: tried(disk), group=group, capabilities=[SYS_ADMIN]) == ALL


@needs_device_groups
def test_asking_the_kernel_tells_what_opening_would(disk, tmp_path):
    """The proof of ``mover check``, by access(2) on a node that exists and on one of a moment."""
    tmp_path.chmod(0o777)
    kernel = RunningKernel(tmp_path)
    major = os.major(disk.stat().st_rdev)

    def asked() -> tuple[int, int | None]:
        return kernel.refusal(disk), kernel.refusal_of_number(major, 0)

    with device_group(CHARACTERS, "b *:* m") as group:
        assert lesser(asked, group=group, capabilities=[MKNOD]) == (errno.EPERM, errno.EPERM)
        assert lesser(asked, group=group) == (errno.EPERM, None)
    with device_group(CHARACTERS, "b *:* m", f"b {major}:* rw") as group:
        assert lesser(asked, group=group, capabilities=[MKNOD]) == (0, 0)
    assert lesser(lambda: kernel.refusal(disk), user=USER) == errno.EACCES
    assert lesser(lambda: kernel.refusal(disk), user=USER, groups=[DISK]) == 0


@needs_device_groups
def test_check_tells_a_process_without_devices():
    with device_group(CHARACTERS) as group:
        found = findings(group=group, capabilities=None)["block devices"]
    assert found.stops
    assert "deny SCSI disks" in found.what
    with device_group(CHARACTERS, *(f"b {major}:* rwm" for major in (8, 65))) as group:
        some = findings(group=group, capabilities=None)["block devices"]
    assert (some.state, some.stops) == ("note", False)
    assert "66, 67" in some.what


def findings(**how: Any) -> dict[str, Any]:
    """What ``mover check`` says of this machine to such a process."""
    found = lesser(lambda: inspect_below(Path("/"), Settings(), {}, RunningKernel(Path("/dev/shm")), {}), **how)
    return {line.subject: line for line in found}


def test_check_tells_a_missing_capability():
    assert findings()["capability"].stops
    assert findings(capabilities=[SYS_ADMIN])["capability"].state == "ok"
