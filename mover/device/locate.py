"""From an attachment to a device that is proven to be it, or a refusal. Fails closed.

A disk is taken by what it says about itself (VPD pages, wwid, by-id names), never by its
letter, order or size alone; it is proven in sysfs, opened once, and proven again on the
open descriptor. What is refused was neither read nor written.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from typing import Any, TypeVar

from mover.clock import Clock, Dice
from mover.config import NodeSettings
from mover.device import bus, inquiry, ioctl, sysfs
from mover.device.direct import DirectDevice, closing_on_error, measure, open_direct
from mover.device.identity import Identity, is_uuid
from mover.device.proof import Census, Want, absent, busy, changed, choose, refused
from mover.device.sysfs import BlockDevice
from mover.errors import DeviceAbsent, DeviceBusy
from mover.metrics import DEVICE_REFUSED
from mover.model.machine import Attachment
from mover.units import align_down

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_RESCAN_AFTER_S = 10.0
_BUSY_PATIENCE_S = 5.0
"""udev and LVM look at every new disk for a moment; who holds it longer, keeps it."""
_SAMPLE_BYTES = 64 * 1024
_WENT_AWAY = {errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM}
_NOT_READY = {errno.ENOENT, *_WENT_AWAY}
_NO_RIGHTS = {errno.EACCES, errno.EPERM}

Opener = Callable[[Path, int], int]
_T = TypeVar("_T")


def census(root: Path) -> Census:
    """The disks there are now. Taken before an attach, it lets ``trust_slot`` tell what is new."""
    return frozenset(disk.birth for disk in sysfs.disks(root))


async def locate(
    attachment: Attachment,
    *,
    settings: NodeSettings,
    clock: Clock,
    writable: bool,
    before: Census | None = None,
) -> DirectDevice:
    """Find, prove and open the device of one attachment: see ``Locator.locate``."""
    locator = Locator(settings, clock)
    try:
        return await locator.locate(attachment, writable=writable, before=before)
    finally:
        locator.close()


def release(device: DirectDevice) -> None:
    """Flush, have the kernel forget the disk, close: the detach comes next. Idempotent."""
    device.release()


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


class Locator:
    """Locates for one node. Remembers what it has open, so that no disk is given out twice."""

    def __init__(self, settings: NodeSettings, clock: Clock, *, opener: Opener = open_direct) -> None:
        self._settings = settings
        self._root = settings.device_root
        self._clock = clock
        self._opener = opener
        self._open: set[tuple[str, int | None]] = set()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="locate")

    def close(self) -> None:
        """End its threads. The devices belong to whoever asked for them."""
        self._threads.shutdown(wait=False)

    def census(self) -> Census:
        """The disks there are now, for ``locate``'s ``before``."""
        return census(self._root)

    async def locate(self, attachment: Attachment, *, writable: bool, before: Census | None = None) -> DirectDevice:
        """The proven, open device of an attachment. Cancelling it leaves nothing open.

        Waits up to ``device_timeout``. Raises DeviceAbsent (it never came), DeviceBusy
        (somebody holds it), DeviceRefused (wrong size, two of them, a contradiction,
        changed while it was opened, not empty though writable).
        """
        if not is_uuid(attachment.vmdisk_uuid):
            raise refused(
                "no-uuid",
                f"{attachment.slot} has no usable vmdisk UUID ({attachment.vmdisk_uuid!r})",
                "Detach the disk and run the job again; report this if it comes back.",
            )
        want = Want(attachment, writable, before, self._settings.trust_slot)
        return await self._poll(want)

    async def _poll(self, want: Want) -> DirectDevice:
        start, pause, rescanned = self._clock.monotonic(), _FIRST_PAUSE_S, False
        deadline = start + self._settings.device_timeout
        busy_since: float | None = None
        while True:
            found = await self._off_loop(lambda: self._try(want))
            if isinstance(found, DirectDevice):
                return found
            now = self._clock.monotonic()
            busy_since = None if isinstance(found, DeviceAbsent) else now if busy_since is None else busy_since
            held_s = 0.0 if busy_since is None else now - busy_since
            if held_s >= _BUSY_PATIENCE_S or now >= deadline:
                DEVICE_REFUSED.labels("absent" if busy_since is None else "busy").inc()
                raise found
            if not rescanned and now - start >= _RESCAN_AFTER_S:
                rescanned = True
                await self._off_loop(lambda: bus.rescan(self._root, frozenset(self._open)))
            await self._clock.sleep(min(pause, deadline - now))
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)

    async def _off_loop(self, work: Callable[[], _T]) -> _T:
        future = self._threads.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close_unwanted)
            raise

    def _try(self, want: Want) -> DirectDevice | DeviceAbsent | DeviceBusy:
        """One look. What may pass with time is returned, what cannot is raised."""
        try:
            return self._look(want)
        except OSError as error:
            if error.errno in _WENT_AWAY:
                return absent(want, (), f"It went away while it was looked at ({error.strerror})")
            raise refused(
                "unreadable",
                f"What the kernel says of disks and mounts cannot be read, so {want} cannot be proven: {error}",
                "Run as root; a container needs the host's /sys and /dev, and its own /proc.",
            ) from error

    def _look(self, want: Want) -> DirectDevice | DeviceAbsent | DeviceBusy:
        if want.before is not None:
            # What came since and is ours already is another attachment's, proven.
            want = replace(want, before=want.before | self._open)
        disk = choose(sysfs.disks(self._root), want)
        if isinstance(disk, DeviceAbsent):
            return disk
        users = self._users(disk)
        if users:
            return busy(disk, want, users)
        return self._open_and_prove(disk, want)

    def _users(self, disk: BlockDevice) -> tuple[str, ...]:
        if disk.birth in self._open:
            return ("this mover reads or writes it already",)
        return sysfs.users(self._root, disk)

    def _open_and_prove(self, disk: BlockDevice, want: Want) -> DirectDevice | DeviceAbsent | DeviceBusy:
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

    def _check_node(self, node: os.stat_result, disk: BlockDevice, want: Want) -> None:
        if stat.S_ISBLK(node.st_mode):
            if _number(node) != disk.number:
                raise changed(disk, want, f"/dev/{disk.name} is device {_number(node)}")
        elif not (stat.S_ISREG(node.st_mode) and self._settings.allow_regular_files):
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
        self._open.add(disk.birth)

        def on_close(fd: int) -> None:
            self._open.discard(disk.birth)
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
        if error.errno in _WENT_AWAY:
            raise
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


def _not_opened(error: OSError, disk: BlockDevice, want: Want, path: Path) -> DeviceAbsent | DeviceBusy:
    if error.errno == errno.EBUSY:
        return busy(disk, want, ["the kernel says that it is held exclusively"])
    if error.errno in _NOT_READY:
        return absent(want, [disk], f"The kernel knows it, but {path} cannot be opened ({error.strerror})")
    if error.errno in _NO_RIGHTS:
        raise refused(
            "rights",
            f"{path}, which is {want}, cannot be opened: {error.strerror}",
            "Run as root (in a container with CAP_SYS_ADMIN and access to block devices).",
        ) from error
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


def _close_unwanted(future: Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None:
        result = future.result()
        if isinstance(result, DirectDevice):
            result.close()
