"""Full or incremental, per disk, with the reason in words. Pure.

A base is a pair: the snapshot's file that is still on the cluster, and the restore point
made from it. One without the other is nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mover.model.machine import Disk, Snapshot
from mover.model.point import BasePair, DiskImage, PointSummary, ReadMode, RestorePoint
from mover.operations.blocksize import BlockChoice
from mover.units import format_duration, format_size


@dataclass(frozen=True, slots=True)
class Base:
    """The newest point of the VM in this repository that kept its snapshot, and that snapshot as it is now."""

    point: RestorePoint
    snapshot: Snapshot | None

    def image_of(self, device_uuid: str) -> DiskImage | None:
        return next((image for image in self.point.disks if image.device_uuid == device_uuid), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """How a disk is read. ``base`` and ``image`` (of the base point) are set when incremental."""

    mode: ReadMode
    reason: str
    base: BasePair | None = None
    image: DiskImage | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was ordered, as far as it decides between full and incremental."""

    full: bool
    blocks: BlockChoice
    cluster_uuid: str
    full_every_s: float = 0.0
    last_full_at: float | None = None
    now: float = 0.0
    unsound: Collection[str] = ()
    """Device UUIDs of disks whose image in the base point needs damaged packs."""


def newest_base(points: Sequence[PointSummary]) -> PointSummary | None:
    """Of a VM's points: the newest one that kept its snapshot."""
    kept = [point for point in points if point.is_base]
    return max(kept, key=lambda point: (point.created_at, point.committed_at, point.id)) if kept else None


def newest_full(points: Sequence[PointSummary]) -> float | None:
    """When the newest point was frozen that read a disk in full, as far as points can be read."""
    times = [point.created_at for point in points if point.mode is ReadMode.FULL and not point.problem]
    return max(times) if times else None


def decide(disk: Disk, base: Base | None, wishes: Wishes) -> Decision:
    """Never raises: what is doubtful is read in full, and says why."""
    reason = _reason_for_full(disk, base, wishes)
    if reason is not None:
        return Decision(ReadMode.FULL, reason)
    assert base is not None
    assert base.snapshot is not None
    image = base.image_of(disk.device_uuid)
    assert image is not None
    assert image.snapshot_path is not None
    pair = BasePair(base.snapshot.uuid, image.snapshot_path, base.point.id)
    grown = disk.size_bytes - image.size_bytes
    note = f", grown by {format_size(grown)}" if grown else ""
    return Decision(ReadMode.INCREMENTAL, f"changes since {base.point.id[:8]}{note}", pair, image)


def _reason_for_full(disk: Disk, base: Base | None, wishes: Wishes) -> str | None:
    if wishes.full:
        return "asked for"
    if base is None:
        return "no base"
    if _is_due(wishes):
        return f"last full is older than {format_duration(wishes.full_every_s)}"
    if base.point.cluster_uuid != wishes.cluster_uuid:
        return "the VM moved to another cluster"
    if base.snapshot is None:
        return "the base snapshot is gone"
    return _reason_in_image(disk, base.image_of(disk.device_uuid), base.snapshot, wishes)


def _is_due(wishes: Wishes) -> bool:
    if not wishes.full_every_s or wishes.last_full_at is None:
        return False
    return wishes.now - wishes.last_full_at >= wishes.full_every_s


def _reason_in_image(disk: Disk, image: DiskImage | None, snapshot: Snapshot, wishes: Wishes) -> str | None:
    if image is None:
        return "new disk"
    if image.mode is ReadMode.EXCLUDED:
        return "was excluded before"
    if disk.device_uuid in wishes.unsound:
        return "the base needs packs that are damaged"
    if image.vmdisk_uuid != disk.vmdisk_uuid:
        return "the disk was replaced or moved"
    if disk.size_bytes < image.size_bytes:
        return f"shrunk from {format_size(image.size_bytes)}"
    if image.block_bytes != wishes.blocks.block_bytes:
        return wishes.blocks.reason or f"block size was {format_size(image.block_bytes)}"
    if image.snapshot_path not in {file.path for file in snapshot.files}:
        return "the base snapshot lacks this disk"
    return None
