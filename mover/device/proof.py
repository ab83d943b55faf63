"""Which disk is an attachment's, decided from what sysfs says; pure, touches nothing.

Also the words of every refusal, so that each says what was seen and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mover.device.sysfs import BlockDevice
from mover.errors import DeviceAbsent, DeviceBusy, DeviceRefused
from mover.metrics import DEVICE_REFUSED
from mover.model.machine import Attachment

_SHOWN = 8

Census = frozenset[tuple[str, int | None]]
"""``BlockDevice.birth`` of every disk that was there before an attach."""


@dataclass(frozen=True, slots=True)
class Want:
    """What is looked for."""

    attachment: Attachment
    writable: bool
    before: Census | None
    trust_slot: bool

    def __str__(self) -> str:
        return f"{self.attachment.slot} (vmdisk {self.attachment.vmdisk_uuid})"

    def is_proven_by(self, disk: BlockDevice) -> bool:
        return disk.identity.carries(self.attachment.vmdisk_uuid)


def choose(disks: Sequence[BlockDevice], want: Want) -> BlockDevice | DeviceAbsent:
    """The one disk that is the attachment's; DeviceAbsent as a value while it may still come.

    Raises DeviceRefused where waiting cannot help: two of them, another size, a disk that
    names two vmdisks.
    """
    ours = [disk for disk in disks if want.is_proven_by(disk)]
    if not ours and want.trust_slot and want.before is not None:
        ours = _newcomers(disks, want, want.before)
    if not ours:
        return absent(want, disks)
    if len(ours) > 1:
        raise refused(
            "duplicate" if want.is_proven_by(ours[0]) else "slot",
            f"{len(ours)} disks could be {want}: {_listed(ours)}",
            "Detach the one that is not this job's, then run the job again.",
        )
    disk = ours[0]
    _check_stranger(disk, want)
    if not disk.size_bytes:
        return absent(want, disks)
    _check_size(disk, want)
    return disk


def _newcomers(disks: Iterable[BlockDevice], want: Want, before: Census) -> list[BlockDevice]:
    """All disks that came since the attach; the kernel's SCSI target must agree where it is known."""
    new = [disk for disk in disks if disk.birth not in before]
    for disk in new:
        if disk.target not in (None, want.attachment.slot.index):
            raise refused(
                "slot",
                f"{disk} came since the attach, but at SCSI target {disk.target}, not in {want.attachment.slot}",
                "Look who attached it. If targets do not follow slots on this cluster, node.trust_slot cannot be used.",
            )
    return new


def _check_stranger(disk: BlockDevice, want: Want) -> None:
    others = disk.identity.others(want.attachment.vmdisk_uuid)
    if others:
        raise refused(
            "contradiction",
            f"{disk} names another vmdisk ({', '.join(sorted(others))}) beside or instead of {want}",
            "Detach the disk and run the job again; report this serial if it comes back.",
        )


def _check_size(disk: BlockDevice, want: Want) -> None:
    if disk.size_bytes != want.attachment.size_bytes:
        raise refused(
            "size",
            f"{disk} should be {want}, but that has {want.attachment.size_bytes} bytes in Prism",
            "See in Prism whether the disk was replaced or resized meanwhile, then run the job again.",
            seen_bytes=disk.size_bytes,
            wanted_bytes=want.attachment.size_bytes,
        )


def refused(reason: str, message: str, remedy: str, **facts: Any) -> DeviceRefused:
    """A refusal, counted under its reason."""
    DEVICE_REFUSED.labels(reason).inc()
    return DeviceRefused(message, remedy=remedy, reason=reason, **facts)


def changed(disk: BlockDevice, want: Want, what: str) -> DeviceRefused:
    """What was opened is not what sysfs had described."""
    return refused(
        "changed",
        f"{disk} was to be {want}, but {what} once it was open; nothing was read or written",
        "Something re-plugs disks on this node at the same time: see Prism's tasks, then run the job again.",
    )


def not_scsi(disk: BlockDevice, want: Want) -> DeviceRefused:
    """It cannot be asked who it is, as every disk of Prism's can."""
    return refused(
        "not-scsi",
        f"/dev/{disk.name}, which should be {want}, is no SCSI disk: it knows no INQUIRY, so nothing but the kernel's "
        "memory says who it is",
        "Run mover in a VM of the cluster; a container needs the host's own /dev and /sys. What Prism attaches "
        "is SCSI; virtio-blk, NVMe and layers upon disks are not.",
    )


def busy(disk: BlockDevice, want: Want, by: Iterable[str]) -> DeviceBusy:
    """Somebody on this node holds the disk."""
    return DeviceBusy(
        f"{disk.name}, which is {want}, is in use: {'; '.join(by)}",
        remedy="Unmount or deactivate it, then see `mover check`: LVM, multipath, md or an automounter took it.",
        device=disk.name,
    )


def absent(want: Want, disks: Iterable[BlockDevice], why: str = "No disk on this node carries it") -> DeviceAbsent:
    """It is not there (yet); says which disks are, the new ones first."""
    before = want.before or frozenset()
    ordered = sorted(disks, key=lambda disk: (disk.birth in before, disk.vendor != "NUTANIX", disk.name))
    return DeviceAbsent(
        f"The device of {want} did not appear. {why}; seen: {_listed(ordered)}",
        remedy="See in Prism that the Proxy VM is on and has the disk; a container needs the host's /dev and /sys.",
        vmdisk_uuid=want.attachment.vmdisk_uuid,
    )


def _listed(disks: Sequence[BlockDevice]) -> str:
    if not disks:
        return "no disk at all"
    more = f" and {len(disks) - _SHOWN} more" if len(disks) > _SHOWN else ""
    return "; ".join(map(str, disks[:_SHOWN])) + more
