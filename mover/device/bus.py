"""What is asked of the kernel's SCSI layer; only ever of the real one, below "/"."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from mover.device import sysfs
from mover.device.sysfs import BlockDevice

_REAL = Path("/")


def forget(root: Path, disk: BlockDevice) -> None:
    """Have the kernel drop a SCSI disk. Its name cannot pass to another while the caller holds it open."""
    if root != _REAL:
        return
    now = sysfs.disk(root, disk.name)
    if now is not None and now.birth == disk.birth:
        with suppress(OSError):  # not SCSI, or gone: the detach unplugs it all the same
            (root / "sys/block" / disk.name / "device/delete").write_text("1")


def rescan(root: Path, held: Collection[tuple[str, int | None]]) -> None:
    """Ask SCSI disks and hosts to look again. held: ``BlockDevice.birth`` of those that this process reads or writes.

    Before Linux 5.12 a disk that is looked at again can be written to again, whoever set it read-only.
    """
    if root != _REAL:
        return
    # First the disks that are known: one may have been exchanged, and sysfs describes the former.
    free = [disk.name for disk in sysfs.disks(root) if disk.birth not in held]
    known = [(root / "sys/block" / name / "device/rescan", "1") for name in free]
    hosts = [(path, "- - -") for path in root.glob("sys/class/scsi_host/host*/scan")]
    for path, words in known + hosts:
        with suppress(OSError):  # not SCSI, or read-only in a container: waiting is all that is left
            path.write_text(words)
