"""Loop devices and mounts by ioctl and mount(2): no subprocess, nothing left unverified.

Devices are made with fresh high numbers, since the low ones exist on most machines and
are reused by everybody. Everything here needs root; ``usable`` says whether it works.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import stat
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mover.clock import pause
from mover.errors import LabError

FIRST_NUMBER = 64
_NUMBERS = 1 << 16

_CLR_FD = 0x4C01
_SET_STATUS64 = 0x4C04
_GET_STATUS64 = 0x4C05
_SET_CAPACITY = 0x4C07
_CONFIGURE = 0x4C0A
_CTL_ADD = 0x4C80
_CTL_REMOVE = 0x4C81
_READ_ONLY = 1
_DIRECT_IO = 16
_AUTOCLEAR = 4
_STATUS = struct.Struct("<5Q4I64s64s32s2Q")
_CONFIG = struct.Struct("<II232s8Q")
_FLAGS_FIELD = 8

_MS_NODEV, _MS_NOSUID, _MS_NOEXEC, _MS_RDONLY, _MS_PRIVATE = 4, 2, 8, 1, 1 << 18
_MNT_DETACH = 2
_SYS_BLOCK = Path("/sys/block")


@dataclass(frozen=True, slots=True)
class Loop:
    """One attached loop device; ``node`` is our own block node of it."""

    number: int
    node: Path
    sector_bytes: int

    @property
    def sysfs(self) -> Path:
        return _SYS_BLOCK / f"loop{self.number}"

    def fact(self, name: str) -> str:
        """A sysfs attribute, stripped: ``size``, ``dev``, ``diskseq``, ``loop/dio``…"""
        return (self.sysfs / name).read_text().strip()


def unusable_in(folder: Path) -> str | None:
    """Try it: None when files of ``folder`` become loop devices with direct I/O, else the reason."""
    reason = usable()
    if reason is not None:
        return reason
    file = folder / ".loop-probe"
    try:
        with open(file, "wb") as probe:
            probe.truncate(1 << 20)
        release(attach(file, file.with_suffix(".node"), sector_bytes=4096).number)
    except LabError as failure:
        return failure.message
    except OSError as failure:
        return f"loop device: {failure.strerror}"
    finally:
        file.unlink(missing_ok=True)
        file.with_suffix(".node").unlink(missing_ok=True)
    return None


def usable() -> str | None:
    """None when loop devices may be asked for here, otherwise the reason in words."""
    if os.geteuid() != 0:
        return "not root"
    try:
        os.close(os.open("/dev/loop-control", os.O_RDWR))
    except OSError as failure:
        return f"/dev/loop-control: {failure.strerror}"
    return None


def attach(
    backing: Path,
    node: Path,
    *,
    sector_bytes: int,
    offset_bytes: int = 0,
    limit_bytes: int = 0,
    read_only: bool = False,
    is_strict: bool = True,
) -> Loop:
    """Attach a file to a fresh loop device with direct I/O; ``node`` becomes its block node.

    offset_bytes, limit_bytes: show only that part of the file (limit 0 = to its end).
    is_strict: direct I/O at that sector size must be proven by the kernel and by a read,
    otherwise LabError and nothing is left.
    """
    number = _add()
    try:
        make_node(number, node)
        flags = _DIRECT_IO | (_READ_ONLY if read_only else 0)
        name = str(backing).encode()[:63]
        info = _STATUS.pack(0, 0, 0, offset_bytes, limit_bytes, number, 0, 0, flags, name, b"", b"", 0, 0)
        _configure(node, backing, sector_bytes, info, os.O_RDONLY if read_only else os.O_RDWR)
        loop = Loop(number, node, sector_bytes)
        if is_strict:
            _prove_direct(loop, backing)
    except BaseException:
        release(number)
        node.unlink(missing_ok=True)
        raise
    return loop


def make_node(number: int, node: Path) -> None:
    """Our own node, or a link to the system's where ours cannot be made or opened (container, nodev)."""
    node.unlink(missing_ok=True)
    major, minor = (int(part) for part in (_SYS_BLOCK / f"loop{number}/dev").read_text().split(":"))
    try:
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
        os.close(os.open(node, os.O_RDONLY))
    except PermissionError:
        node.unlink(missing_ok=True)
        node.symlink_to(f"/dev/loop{number}")


def _add() -> int:
    """A loop device that did not exist before."""
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        for number in range(FIRST_NUMBER, _NUMBERS):
            if (_SYS_BLOCK / f"loop{number}").exists():
                continue
            try:
                return int(fcntl.ioctl(control, _CTL_ADD, number))
            except OSError as failure:
                if failure.errno != errno.EEXIST:
                    raise _refused("make a loop device", failure) from failure
    finally:
        os.close(control)
    raise LabError("every loop device number is taken", remedy="Run `mover lab --clean` on folders of old labs.")


def _configure(node: Path, backing: Path, sector_bytes: int, info: bytes, mode: int) -> None:
    file = os.open(backing, mode)
    try:
        device = os.open(node, mode)
        try:
            fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(file, sector_bytes, info, *[0] * 8))
        except OSError as failure:
            raise _refused(f"attach {backing}", failure) from failure
        finally:
            os.close(device)
    finally:
        os.close(file)


def _prove_direct(loop: Loop, backing: Path) -> None:
    """sysfs says so, and a direct read of one odd sector works."""
    is_direct = loop.fact("loop/dio") == "1"
    if is_direct and int(loop.fact("size")) * 512 >= 2 * loop.sector_bytes:
        page = mmap.mmap(-1, mmap.PAGESIZE)
        device = os.open(loop.node, os.O_RDONLY | os.O_DIRECT)
        try:
            os.preadv(device, [memoryview(page)[: loop.sector_bytes]], loop.sector_bytes)
        except OSError as failure:
            if failure.errno not in (errno.EINVAL, errno.EIO):
                raise
            is_direct = False
        finally:
            os.close(device)
    if not is_direct:
        raise LabError(
            f"no direct I/O with {loop.sector_bytes}-byte sectors on {backing}",
            remedy="Put the lab on ext4 or XFS, or ask for 4096-byte sectors.",
        )


def set_autoclear(loop: Loop) -> None:
    """Let the kernel free the device when its last user (a mount) goes."""
    device = os.open(loop.node, os.O_RDWR)
    try:
        status = list(_STATUS.unpack(fcntl.ioctl(device, _GET_STATUS64, bytes(_STATUS.size))))
        status[_FLAGS_FIELD] |= _AUTOCLEAR
        fcntl.ioctl(device, _SET_STATUS64, _STATUS.pack(*status))
    finally:
        os.close(device)


def resize(loop: Loop) -> None:
    """Take over the new size of the backing file."""
    device = os.open(loop.node, os.O_RDWR)
    try:
        fcntl.ioctl(device, _SET_CAPACITY, 0)
    finally:
        os.close(device)


def backing_of(number: int) -> str | None:
    """The backing file as the kernel names it; None when the device is free or absent."""
    try:
        return (_SYS_BLOCK / f"loop{number}/loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def below(folder: Path) -> list[int]:
    """Numbers of loop devices whose backing file is in ``folder`` (or was, before its deletion)."""
    prefix = f"{folder.resolve()}/"
    found = []
    for entry in _SYS_BLOCK.glob("loop*"):
        backing = backing_of(int(entry.name[4:]))
        if backing is not None and backing.startswith(prefix):
            found.append(int(entry.name[4:]))
    return sorted(found)


def release(number: int, *, patience_s: float = 1.0) -> bool:
    """Detach and remove; False while somebody still holds it open (see ``remove``)."""
    _clear(number)
    while not remove(number):
        patience_s -= 0.01
        if patience_s <= 0:
            return False
        pause(0.01)
    return True


def remove(number: int) -> bool:
    """Remove a detached device; False while it is open, or in use by somebody again."""
    control = os.open("/dev/loop-control", os.O_RDWR)
    try:
        fcntl.ioctl(control, _CTL_REMOVE, number)
    except OSError as failure:
        if failure.errno not in (errno.ENODEV, errno.EBUSY):
            raise
        return failure.errno == errno.ENODEV
    finally:
        os.close(control)
    return True


def _clear(number: int) -> None:
    # The node of a dead lab may be gone: one of a moment is as good.
    with tempfile.TemporaryDirectory(prefix="mover-lab-") as scratch:
        node = Path(scratch) / "node"
        try:
            make_node(number, node)
            device = os.open(node, os.O_RDONLY)
        except OSError as failure:
            if failure.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
                return
            raise
        try:
            fcntl.ioctl(device, _CLR_FD, 0)
        except OSError as failure:
            if failure.errno not in (errno.ENXIO, errno.EBUSY):
                raise
        finally:
            os.close(device)


# --- mounts ---------------------------------------------------------------------------


def mount(source: Path, target: Path, kind: str, *, options: str = "", read_only: bool = False) -> None:
    """Mount privately, without devices, setuid or executables. Raises LabError."""
    flags = _MS_NODEV | _MS_NOSUID | _MS_NOEXEC | (_MS_RDONLY if read_only else 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode()):
        raise _refused(f"mount {source} ({kind})", OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())))
    libc.mount(None, os.fsencode(target), None, _MS_PRIVATE, None)


def unmount(target: Path, *, patience_s: float = 2.0) -> None:
    """Unmount; what is still busy after ``patience_s`` is detached and ends with its last user."""
    libc = ctypes.CDLL(None, use_errno=True)
    while libc.umount2(os.fsencode(target), 0):
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOENT):
            return
        if code != errno.EBUSY:
            raise _refused(f"unmount {target}", OSError(code, os.strerror(code)))
        patience_s -= 0.02
        if patience_s <= 0:
            libc.umount2(os.fsencode(target), _MNT_DETACH)
            return
        pause(0.02)


def mounts_below(folder: Path) -> list[Path]:
    """Mount points at or below ``folder``, the deepest first."""
    top = str(folder.resolve())
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if place == top or place.startswith(f"{top}/"):
            found.append(Path(place))
    return sorted(found, key=lambda place: len(place.parts), reverse=True)


def _refused(what: str, failure: OSError) -> LabError:
    return LabError(
        f"the kernel refused to {what}: {failure.strerror}",
        remedy="Run the lab without root (files instead of devices), or give it CAP_SYS_ADMIN.",
    )
