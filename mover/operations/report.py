"""What a run did, as rows for a table: from the committed manifest, not from memory."""

from __future__ import annotations

from collections.abc import Sequence

from mover.clock import iso
from mover.jobs.steps import Values
from mover.model.point import DiskImage, PointSummary, ReadMode, RestorePoint

# Phases of the pipeline that move bytes: the rate is what was read over these.
_MOVING = ("copy", "copy_again")


def point_report(point: RestorePoint) -> Values:
    """A point and its disks: sizes in bytes, seconds by phase, rate, mode and reason."""
    return {
        "point": point.id,
        "vm": point.vm_name,
        "vm_uuid": point.vm_uuid,
        "job": point.job_id,
        "frozen_at": iso(point.created_at),
        "committed_at": iso(point.committed_at),
        "consistency": str(point.consistency),
        "is_base": point.is_base,
        "warnings": list(point.warnings),
        "disks": [disk_row(image) for image in point.disks],
    }


def point_words(point: RestorePoint) -> Values:
    """Which point something was made from: a VM's name alone would not say it."""
    return {"point": point.id, "point_vm": point.vm_name, "frozen_at": iso(point.created_at)}


def disk_row(image: DiskImage) -> Values:
    """One disk of a point. rate in bytes a second; changed as a share of the size."""
    moving = sum(image.seconds.get(phase, 0.0) for phase in _MOVING)
    return {
        "disk": str(image.slot),
        "size_bytes": image.size_bytes,
        "mode": str(image.mode),
        "reason": image.reason,
        "bytes_read": image.bytes_read,
        "bytes_new": image.bytes_new,
        "bytes_stored": image.bytes_stored,
        "bytes_changed": image.bytes_changed,
        "changed_ratio": image.bytes_changed / image.size_bytes if image.size_bytes else 0.0,
        "rate": image.bytes_read / moving if moving else 0.0,
        "seconds": dict(image.seconds),
    }


def point_row(point: PointSummary, *, is_base: bool) -> Values:
    """A line of ``mover points``. is_base: the next incremental stands on it.

    Of a manifest that cannot be read only what its name says: the rest is None.
    """
    said = {
        "vm": point.vm_name,
        "frozen_at": iso(point.created_at),
        "mode": str(point.mode),
        "consistency": str(point.consistency),
        "disks": point.disks,
        "size_bytes": point.size_bytes,
        "bytes_read": point.bytes_read,
        "bytes_stored": point.bytes_stored,
        "is_base": is_base,
    }
    told = dict.fromkeys(said) if point.problem else said
    return {"point": point.id, "vm_uuid": point.vm_uuid, **told, "problem": point.problem}


FULL_REASONS = {
    "asked for": "asked",
    "no base": "first",
    "last full": "due",
    "the VM moved": "moved",
    "the base snapshot": "base-gone",
    "the base needs": "base-damaged",
    "new disk": "new-disk",
    "was excluded": "new-disk",
    "the disk was replaced": "replaced",
    "shrunk": "replaced",
    "block size": "block-size",
    "the list of": "invalid-list",
}
"""How a reason begins → its class: the label of a metric, of which there may be only few."""


def classes_of_full(images: Sequence[DiskImage]) -> dict[str, bool]:
    """Every class of reasons → whether a disk was read in full for it. "contradicted": the list of changes lied."""
    found = {_class_of(image.reason) for image in images if image.mode is ReadMode.FULL}
    return {name: name in found for name in sorted({*FULL_REASONS.values(), "contradicted"})}


def _class_of(reason: str) -> str:
    known = (name for begin, name in FULL_REASONS.items() if reason.startswith(begin))
    return next(known, "contradicted")
