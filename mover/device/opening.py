"""Opens a disk that sysfs describes, once, and proves on the open descriptor that it is still that one.

Nothing is read or written before; a source is set read-only, a target must hold nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from pathlib import Path

from mover.clock import Clock, Dice
from mover.device import bus, inquiry, ioctl, sysfs
from mover.device.direct import DirectDevice, closing_on_error, measure
from mover.device.identity import Identity
from mover.device.proof import Want, absent, busy, changed, not_scsi, refused
from mover.device.sysfs import BlockDevice
from mover.errors import DeviceAbsent, DeviceBusy, DeviceRefused
from mover.units import align_down

_SAMPLE_BYTES = 64 * 1024
WENT_AWAY = {errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM}
_NOT_READY = {errno.ENOENT, *WENT_AWAY}
_NO_RIGHTS = {errno.EACCES, errno.EPERM}
_RIGHTS = (
    "Run as root, or in the group disk. A container needs CAP_SYS_ADMIN and device rules (deploy/container/README.md), "
    "a unit DeviceAllow= for such disks (deploy/systemd/mover.service); mover check names what is missing."
)

Opener = Callable[[Path, int], int]


def prove_empty(device: DirectDevice, dice: Dice, *, samples: int = 64) -> None:
    """Read both ends and seeded places, all must be zero. Raises DeviceRefused naming one that is not."""
    size, sector = device.size_bytes, device.sector_bytes
    last = align_down(max(0, size - _SAMPLE_BYTES), sector)
    places = {0, last, *(align_down(dice.randint(0, last), sector) for _ in range(samples))}
    with mmap(-1, _SAMPLE_BYTES + sector) as page, memoryview(page) as buffer:
        for offset in sorted(places):
            with buffer[: size - offset if offset == last else _SAMPLE_BYTES] as view:
                device.read_into(view, offset)
                if any(bytes(view)):
                    raise refused(
                        "not-empty",
                        f"{device.name} holds data near byte {offset}: it is not the empty disk that was made",
                        "Leave it alone, see in Prism what this disk is, then run the restore again.",
                        offset_bytes=offset,
                    )


class Opening:
    """Opens for one node, and remembers what is open."""

    def __init__(self, root: Path, clock: Clock, opener: Opener, *, allow_regular_files: bool) -> None:
        self._root, self._clock, self._opener = root, clock, opener
        self._allow_regular_files = allow_regular_files
        self.held: set[tuple[str, int | None]] = set()
        """``BlockDevice.birth`` of each disk that it opened and nobody has closed yet."""

    def open(self, disk: BlockDevice, want: Want) -> DirectDevice | DeviceAbsent | DeviceBusy | DeviceRefused:
        """The open, proven disk. What may pass with time is returned, what cannot is raised; then it is closed."""
        users = self._users(disk)
        if users:
            return busy(disk, want, users)
        path = self._root / "dev" / disk.name
        try:
            node = path.stat()
            self._check_node(node, disk, want)
            fd = self._opener(path, _flags(node, writable=want.writable))
        except OSError as error:
            return _not_opened(error, disk, want, path)
        with closing_on_error(fd):
            try:
                # A whole-disk lock keeps udev from probing it, and any other mover away.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return busy(disk, want, ["another process has locked it"])
            self._prove_again(fd, node, disk, want)
            device = self._device(fd, disk, want)
        if want.writable:
            try:
                prove_empty(device, self._clock.random())
            except BaseException:
                device.close()
                raise
        return device

    def _users(self, disk: BlockDevice) -> tuple[str, ...]:
        if disk.birth in self.held:
            return ("this mover reads or writes it already",)
        return sysfs.users(self._root, disk)

    def _check_node(self, node: os.stat_result, disk: BlockDevice, want: Want) -> None:
        if stat.S_ISBLK(node.st_mode):
            if _number(node) != disk.number:
                raise changed(disk, want, f"/dev/{disk.name} is device {_number(node)}")
        elif not (stat.S_ISREG(node.st_mode) and self._allow_regular_files):
            raise refused(
                "not-a-device",
                f"/dev/{disk.name}, which should be {want}, is no block device",
                "Share the host's /dev with the container, or see who replaced the node.",
            )

    def _prove_again(self, fd: int, node: os.stat_result, disk: BlockDevice, want: Want) -> None:
        """What is open is what was proven: nothing was re-plugged between the look and the open."""
        facts = os.fstat(fd)
        size, _ = measure(fd)
        if size != want.attachment.size_bytes:
            raise changed(disk, want, f"it has {size} bytes")
        if stat.S_ISBLK(facts.st_mode):
            if _number(facts) != disk.number:
                raise changed(disk, want, f"it is device {_number(facts)}")
            sequence = ioctl.disk_sequence(fd)
            if sequence is not None and sequence != disk.sequence:
                raise changed(disk, want, f"its sequence number is {sequence}, not {disk.sequence}")
        elif (facts.st_dev, facts.st_ino, facts.st_mode) != (node.st_dev, node.st_ino, node.st_mode):
            raise changed(disk, want, "it is another file")
        now = sysfs.disk(self._root, disk.name)
        if now is None or _essence(now, want) != _essence(disk, want):
            raise changed(disk, want, f"it is described as {now or 'nothing'}")
        self._ask(fd, disk, want)
        users = sysfs.users(self._root, now)
        if users:
            raise changed(disk, want, "; ".join(users))

    def _ask(self, fd: int, disk: BlockDevice, want: Want) -> None:
        """The disk itself must bear out what sysfs and udev say: that may be of one that was there before."""
        said = _answers(fd, disk, want)
        if said is None:
            return
        wanted, fresh = want.attachment.vmdisk_uuid, Identity(kernel=said)
        if fresh.others(wanted) or (want.is_proven_by(disk) and not fresh.carries(wanted)):
            raise changed(disk, want, f"it answers that it is {fresh}")

    def _device(self, fd: int, disk: BlockDevice, want: Want) -> DirectDevice:
        size, sector = measure(fd)
        is_block = stat.S_ISBLK(os.fstat(fd).st_mode)
        locked = is_block and not want.writable and _lock_writers_out(fd, disk)
        self.held.add(disk.birth)

        def on_close(fd: int) -> None:
            self.held.discard(disk.birth)
            if locked:
                with suppress(OSError):  # the disk may be gone already
                    ioctl.set_read_only(fd, on=False)

        return DirectDevice(
            fd,
            name=f"{want.attachment.slot} /dev/{disk.name} (vmdisk {want.attachment.vmdisk_uuid})",
            size_bytes=size,
            sector_bytes=sector,
            is_block=is_block,
            on_close=on_close,
            on_release=lambda: bus.forget(self._root, disk) if is_block else None,
        )


def _answers(fd: int, disk: BlockDevice, want: Want) -> tuple[str, ...] | None:
    try:
        return inquiry.texts(fd)
    except OSError as error:
        if error.errno in WENT_AWAY:
            raise
        if error.errno in inquiry.NOT_SCSI:
            raise not_scsi(disk, want) from error
        is_denied = error.errno in _NO_RIGHTS
        raise refused(
            "rights" if is_denied else "unreadable",
            f"/dev/{disk.name}, which should be {want}, cannot be asked who it is (INQUIRY by SG_IO): {error.strerror}",
            "It needs no capability: let the seccomp filter, SELinux or AppArmor of this process allow ioctl(SG_IO)."
            if is_denied
            else "See the node's kernel log, then run the job again.",
        ) from error


def _flags(node: os.stat_result, *, writable: bool) -> int:
    mode = os.O_RDWR if writable else os.O_RDONLY
    return mode | (os.O_EXCL if stat.S_ISBLK(node.st_mode) else 0)


def _not_opened(error: OSError, disk: BlockDevice, want: Want, path: Path) -> DeviceAbsent | DeviceBusy | DeviceRefused:
    if error.errno == errno.EBUSY:
        return busy(disk, want, ["the kernel says that it is held exclusively"])
    if error.errno in _NOT_READY:
        return absent(want, [disk], f"The kernel knows it, but {path} cannot be opened ({error.strerror})")
    if error.errno in _NO_RIGHTS:
        what = f"{path}, which is {want}, cannot be opened: {error.strerror}"
        if error.errno == errno.EACCES:
            # A new node is root's alone until udev gives it to the group disk: whoever waits counts the refusal.
            return DeviceRefused(what, remedy=_RIGHTS, reason="rights")
        raise refused("rights", what, _RIGHTS) from error
    if error.errno == errno.EROFS:
        raise refused(
            "read-only",
            f"{path}, which is {want}, is write-protected",
            "See in Prism what this disk is: a restore writes to the empty disk that it made, which is not protected.",
        ) from error
    raise refused(
        "unreadable",
        f"{path}, which is {want}, cannot be opened: {error.strerror}",
        "See the node's kernel log, then run the job again.",
    ) from error


def _lock_writers_out(fd: int, disk: BlockDevice) -> bool:
    """Set the disk read-only for everybody; True if that was our doing."""
    if ioctl.is_read_only(fd):
        return False
    try:
        ioctl.set_read_only(fd, on=True)
    except OSError as error:
        raise refused(
            "rights",
            f"/dev/{disk.name} cannot be set read-only: {error.strerror}",
            "Run as root (in a container with CAP_SYS_ADMIN): a source must not change while it is read.",
        ) from error
    return True


def _essence(disk: BlockDevice, want: Want) -> tuple[object, ...]:
    """What must not differ between the two proofs; udev's names may still arrive."""
    return disk.birth, disk.size_bytes, disk.identity.kernel, want.is_proven_by(disk)


def _number(facts: os.stat_result) -> str:
    return f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"
