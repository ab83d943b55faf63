"""A restore point and its disk images: what the manifest says, as values.

Times are Unix seconds, sizes bytes. Block ids are 32 bytes; ``ZERO_ID`` stands for a
block (or map node) of zeroes and is never stored; ``LOST_ID`` for one known to be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mover.model.machine import Consistency, DiskKind, Slot
from mover.units import KIB, MIB

ID_BYTES = 32
ZERO_ID = bytes(ID_BYTES)
LOST_ID = b"\xff" * ID_BYTES
BLOCK_SIZES = (256 * KIB, 512 * KIB, MIB, 2 * MIB, 4 * MIB)
"""The sizes that blocks may have."""


class ReadMode(StrEnum):
    """How a disk was read; the reason stands beside it."""

    FULL = "full"
    INCREMENTAL = "incremental"
    EXCLUDED = "excluded"


@dataclass(frozen=True, slots=True)
class BasePair:
    """A snapshot's file on the cluster and the point made from it: one without the other is nothing."""

    snapshot_uuid: str
    file_path: str
    point_id: str


@dataclass(frozen=True, slots=True)
class SlicePlace:
    """How far the rolling slice has come: the next byte to compare, and the Unix time up to which its pace is kept."""

    offset_bytes: int
    paid_until: float


@dataclass(frozen=True, slots=True)
class TouchedDay:
    """What incrementals of a day would have written, blocks and map nodes, at each of BLOCK_SIZES."""

    since: float
    """Unix time of the first of them."""
    bytes_at: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Touched:
    """How a disk changes: what a choice of the size of its blocks goes by."""

    held_bytes: int
    """What a full backup of it copies, at most: what the last one did and all that changed since."""
    days: tuple[TouchedDay, ...]
    """The last ones, the newest last."""


@dataclass(frozen=True, slots=True)
class DiskImage:
    """One disk in a restore point."""

    device_uuid: str
    slot: Slot
    size_bytes: int
    mode: ReadMode
    reason: str
    """Why full, incremental or excluded, in words for a report."""
    vmdisk_uuid: str | None = None
    container_uuid: str | None = None
    block_bytes: int = 0
    fan_out: int = 0
    """Block ids per map node."""
    node_ids: bytes = b""
    """The ids of the map nodes, ``ID_BYTES`` each, in order of offset."""
    snapshot_path: str | None = None
    """The file that this image was read from: with the point's snapshot, the base pair."""
    base: BasePair | None = None
    """What this run was incremental against."""
    bytes_read: int = 0
    bytes_changed: int = 0
    """What the hypervisor reported as changed (data and zero)."""
    bytes_new: int = 0
    """Plain bytes of blocks that the repository did not have."""
    bytes_stored: int = 0
    """Their sealed size."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Phase (attach, plan, copy, detach …) → seconds."""
    slice_place: SlicePlace | None = None
    """Where the next run goes on comparing blocks that need no copy; None: nowhere yet."""
    touched: Touched | None = None
    full_at: float | None = None
    """Unix time of the freeze of the last point that read the disk in full, this one or a former; None: not known."""

    @property
    def block_count(self) -> int:
        return -(-self.size_bytes // self.block_bytes) if self.block_bytes else 0


@dataclass(frozen=True, slots=True)
class OtherDevice:
    """What the VM had and this point does not hold: CD-ROM, volume group."""

    slot: Slot
    kind: DiskKind
    note: str


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """One VM at one time."""

    id: str
    vm_uuid: str
    vm_name: str
    cluster_uuid: str
    created_at: float
    """When the VM was frozen."""
    committed_at: float
    consistency_asked: Consistency
    consistency: Consistency
    disks: tuple[DiskImage, ...]
    session_id: str
    job_id: str
    snapshot_uuid: str | None = None
    snapshot_expires_at: float | None = None
    is_base: bool = False
    """Its snapshot stays on the cluster as the base of the next incremental."""
    others: tuple[OtherDevice, ...] = ()
    warnings: tuple[str, ...] = ()
    """UEFI variables, vTPM, volume groups: what a restore will lack."""
    vm_spec: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Exactly as the hypervisor gave it."""
    vm_reading: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Our reading of it (name, memory, vCPUs, NICs, boot), vendor-free."""
    software_version: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(disk.size_bytes for disk in self.disks)


@dataclass(frozen=True, slots=True)
class PointSummary:
    """A line of ``mover points``: what the header of a manifest says."""

    id: str
    vm_uuid: str
    vm_name: str
    created_at: float
    committed_at: float
    size_bytes: int
    bytes_read: int
    bytes_stored: int
    mode: ReadMode
    consistency: Consistency
    is_base: bool
    disks: int
    problem: str | None = None
    """Why its manifest cannot be read; the other fields then say only what its name does."""
