"""The stored bytes of a restore point: a JSON header and packed node ids, sealed; and the void."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from mover.model.machine import Consistency, DiskKind, Slot
from mover.model.point import (
    BLOCK_SIZES,
    ID_BYTES,
    BasePair,
    DiskImage,
    OtherDevice,
    PointSummary,
    ReadMode,
    RestorePoint,
    SlicePlace,
    Touched,
    TouchedDay,
)
from mover.repository import layout
from mover.repository.keys import Secrets
from mover.repository.layout import ObjectKind
from mover.repository.seal import damaged, open_first_section, open_object, seal_object

HEAD_READ_BYTES = 32 << 10
"""Holds the header of nearly every manifest: listing points reads no more of each."""

_PLAIN_FIELDS = (
    *("id", "vm_uuid", "vm_name", "cluster_uuid", "created_at", "committed_at", "session_id", "job_id"),
    *("snapshot_uuid", "snapshot_expires_at", "is_base", "vm_spec", "vm_reading", "software_version"),
)
_DISK_FIELDS = (
    *("device_uuid", "vmdisk_uuid", "container_uuid", "size_bytes", "block_bytes", "fan_out", "reason"),
    *("snapshot_path", "bytes_read", "bytes_changed", "bytes_new", "bytes_stored"),
)


def seal_manifest(secrets: Secrets, point: RestorePoint, *, salt: bytes | None = None) -> list[bytes]:
    """The parts to put. salt: for tests only."""
    name = layout.point_name(point.vm_uuid, point.id)
    node_ids = b"".join(disk.node_ids for disk in point.disks)
    sections = [orjson.dumps(_header(point)), node_ids]
    return seal_object(secrets, ObjectKind.MANIFEST, name, sections, salt=salt)


def open_manifest(secrets: Secrets, name: str, stored: bytes) -> RestorePoint:
    """Raises Damaged."""
    plain, node_ids = open_object(secrets, ObjectKind.MANIFEST, name, stored, sections=2)
    header = _loads(name, plain)
    try:
        return _point(header, node_ids)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(name, f"a field is wrong ({error!r})") from None


def open_header(secrets: Secrets, name: str, start: bytes) -> Mapping[str, Any] | None:
    """The JSON header from the first bytes of a manifest; None when they do not reach.

    A void has the header ``{"void": session id}``. Raises Damaged.
    """
    found = open_first_section(secrets, (ObjectKind.MANIFEST, ObjectKind.VOID), name, start)
    if found is None:
        return None
    kind, plain = found
    header = _loads(name, plain)
    return {"void": header.get("session", "")} if kind is ObjectKind.VOID else header


def summary(name: str, header: Mapping[str, Any]) -> PointSummary:
    """What a header says in a line. Raises Damaged."""
    try:
        disks = [disk for disk in header["disks"] if disk["mode"] != ReadMode.EXCLUDED]
        is_incremental = bool(disks) and all(disk["mode"] == ReadMode.INCREMENTAL for disk in disks)
        return PointSummary(
            id=header["id"],
            vm_uuid=header["vm_uuid"],
            vm_name=header["vm_name"],
            created_at=header["created_at"],
            committed_at=header["committed_at"],
            size_bytes=sum(disk["size_bytes"] for disk in header["disks"]),
            bytes_read=sum(disk["bytes_read"] for disk in disks),
            bytes_stored=sum(disk["bytes_stored"] for disk in disks),
            mode=ReadMode.INCREMENTAL if is_incremental else ReadMode.FULL,
            consistency=Consistency(header["consistency"]),
            is_base=header["is_base"],
            disks=len(header["disks"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(name, f"a field is wrong ({error!r})") from None


def seal_void(
    secrets: Secrets, name: str, *, session_id: str, at: float, by: str, salt: bytes | None = None
) -> list[bytes]:
    """What bars the point that a dead session announced. salt: for tests only."""
    content = {"at": at, "by": by, "session": session_id}
    return seal_object(secrets, ObjectKind.VOID, name, [orjson.dumps(content)], salt=salt)


def _loads(name: str, plain: bytes) -> dict[str, Any]:
    try:
        header = orjson.loads(plain)
    except orjson.JSONDecodeError as error:
        raise damaged(name, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise damaged(name, "its header is not a JSON object")
    vm_uuid, point_id = layout.point_of(name) or ("", "")
    if "id" in header and (header["id"], header.get("vm_uuid")) != (point_id, vm_uuid):
        raise damaged(name, "it is the manifest of another point")
    return header


def _header(point: RestorePoint) -> dict[str, Any]:
    header = {field: getattr(point, field) for field in _PLAIN_FIELDS}
    header["consistency"] = point.consistency.value
    header["consistency_asked"] = point.consistency_asked.value
    header["warnings"] = list(point.warnings)
    header["others"] = [
        {"slot": str(other.slot), "kind": other.kind.value, "note": other.note} for other in point.others
    ]
    header["disks"] = [_disk_header(disk) for disk in point.disks]
    return header


def _disk_header(disk: DiskImage) -> dict[str, Any]:
    if len(disk.node_ids) % ID_BYTES:
        raise ValueError(f"the node ids of {disk.device_uuid} are not whole")
    header = {field: getattr(disk, field) for field in _DISK_FIELDS}
    header["slot"], header["mode"] = str(disk.slot), disk.mode.value
    header["nodes"] = len(disk.node_ids) // ID_BYTES
    header["seconds"] = dict(disk.seconds)
    base = disk.base
    header["base"] = base and {
        "snapshot_uuid": base.snapshot_uuid,
        "file_path": base.file_path,
        "point_id": base.point_id,
    }
    if disk.slice_place is not None:
        place = disk.slice_place
        header["slice"] = {"offset_bytes": place.offset_bytes, "paid_until": place.paid_until}
    if disk.touched is not None:
        days = [[day.since, *day.bytes_at] for day in disk.touched.days]
        header["touched"] = {"held_bytes": disk.touched.held_bytes, "days": days}
    if disk.full_at is not None:
        header["full_at"] = disk.full_at
    return header


def _point(header: Mapping[str, Any], node_ids: bytes) -> RestorePoint:
    disks, at = [], 0
    for disk in header["disks"]:
        end = at + int(disk["nodes"]) * ID_BYTES
        disks.append(_disk(disk, node_ids[at:end]))
        at = end
    if at != len(node_ids):
        raise ValueError(f"{len(node_ids)} bytes of node ids, {at} expected")
    return RestorePoint(
        **{field: header[field] for field in _PLAIN_FIELDS},
        consistency=Consistency(header["consistency"]),
        consistency_asked=Consistency(header["consistency_asked"]),
        warnings=tuple(header["warnings"]),
        others=tuple(
            OtherDevice(Slot.parse(other["slot"]), DiskKind(other["kind"]), other["note"]) for other in header["others"]
        ),
        disks=tuple(disks),
    )


def _touched(found: Mapping[str, Any] | None) -> Touched | None:
    if found is None:
        return None
    days = [TouchedDay(float(since), tuple(map(int, sizes))) for since, *sizes in found["days"]]
    if any(len(day.bytes_at) != len(BLOCK_SIZES) for day in days):
        raise ValueError(f"a day of touched bytes has not {len(BLOCK_SIZES)} sizes")
    return Touched(int(found["held_bytes"]), tuple(days))


def _disk(header: Mapping[str, Any], node_ids: bytes) -> DiskImage:
    base, place, full_at = header["base"], header.get("slice"), header.get("full_at")
    image = DiskImage(
        **{field: header[field] for field in _DISK_FIELDS},
        slot=Slot.parse(header["slot"]),
        mode=ReadMode(header["mode"]),
        node_ids=node_ids,
        base=base and BasePair(base["snapshot_uuid"], base["file_path"], base["point_id"]),
        seconds=header["seconds"],
        slice_place=place and SlicePlace(int(place["offset_bytes"]), float(place["paid_until"])),
        touched=_touched(header.get("touched")),
        full_at=None if full_at is None else float(full_at),
    )
    if node_ids and len(node_ids) != -(-image.block_count // image.fan_out) * ID_BYTES:
        raise ValueError(
            f"disk {image.device_uuid} has {len(node_ids) // ID_BYTES} nodes for {image.block_count} blocks"
        )
    return image
