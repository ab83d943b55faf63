"""What a hypervisor has: clusters, hosts, VMs, disks, snapshots, attachments.

Vendor-free values. A disk is known by its *device UUID*; the file behind it by its
*vmdisk UUID*. Sizes are bytes, times Unix seconds, UUIDs lower case with dashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class DiskKind(StrEnum):
    """What sits in a slot of a VM."""

    DISK = "disk"
    CDROM = "cdrom"
    VOLUME_GROUP = "volume_group"


class Consistency(StrEnum):
    """How a snapshot treats the guest."""

    CRASH = "crash"
    APPLICATION = "application"


class SnapshotState(StrEnum):
    """Where a snapshot is in its life."""

    PENDING = "pending"
    COMPLETE = "complete"
    ERROR = "error"


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """A place on a VM's bus, written ``scsi.3``; the bus is lower case."""

    bus: str
    index: int

    def __str__(self) -> str:
        return f"{self.bus}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> Slot:
        """``"scsi.3"`` → Slot; raises ValueError on anything else."""
        bus, _, index = text.strip().lower().partition(".")
        if not bus.isalpha() or not index.isdigit():
            raise ValueError(f"{text!r} is not a slot such as scsi.0")
        return cls(bus, int(index))


@dataclass(frozen=True, slots=True)
class Cluster:
    uuid: str
    name: str
    version: str
    address: str | None = None
    """Where its Element answers; None when a Central knows none."""


@dataclass(frozen=True, slots=True)
class Host:
    uuid: str
    name: str
    cluster_uuid: str
    address: str | None = None


@dataclass(frozen=True, slots=True)
class StorageContainer:
    uuid: str
    name: str
    cluster_uuid: str
    capacity_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Network:
    uuid: str
    name: str
    cluster_uuid: str
    vlan_id: int | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    mac_address: str
    network_uuid: str
    is_connected: bool = True
    ip_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disk:
    """One entry of a VM's disk list."""

    device_uuid: str
    slot: Slot
    kind: DiskKind
    size_bytes: int = 0
    vmdisk_uuid: str | None = None
    """None for an empty CD-ROM and a volume group."""
    container_uuid: str | None = None
    source_path: str | None = None
    """The snapshot file that this disk was cloned from, if it is such a clone."""
    source_vmdisk_uuid: str | None = None
    """The vmdisk that this disk was cloned from, if it is such a clone."""
    volume_group_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM as it is now, with everything that a restore needs in ``spec``."""

    uuid: str
    name: str
    cluster_uuid: str
    host_uuid: str | None
    is_on: bool
    """False only for a VM that is off for certain."""
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    memory_bytes: int = 0
    vcpus: int = 0
    boot_type: str = "legacy"
    """legacy | uefi | secure_boot"""
    has_vtpm: bool = False
    can_quiesce: bool = False
    """The guest tools say that an application-consistent snapshot is possible."""
    is_protected_elsewhere: bool = False
    """A protection policy or domain of the cluster snapshots it too."""
    refusal: str | None = None
    """Why the cluster says that this VM must not be backed up (service VMs)."""
    power: str = ""
    """The hypervisor's word for ``is_on``, to be shown: off, on, powering off, unknown, …"""
    notes: tuple[str, ...] = ()
    """What could not be asked of it, in words."""
    spec: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The hypervisor's own description, exactly as given; opaque outside hypervisor/."""

    def data_disks(self) -> tuple[Disk, ...]:
        """Disks that a snapshot freezes: no CD-ROM, no volume group."""
        return tuple(disk for disk in self.disks if disk.kind is DiskKind.DISK)

    def volume_groups(self) -> tuple[Disk, ...]:
        """Attached volume groups: in no snapshot of the VM."""
        return tuple(disk for disk in self.disks if disk.kind is DiskKind.VOLUME_GROUP)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything that one Prism shows."""

    clusters: tuple[Cluster, ...]
    hosts: tuple[Host, ...]
    containers: tuple[StorageContainer, ...]
    networks: tuple[Network, ...]
    vms: tuple[Vm, ...]
    notes: tuple[str, ...] = ()
    """What could not be asked, in words."""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """The frozen state of one disk, on the cluster."""

    vmdisk_uuid: str
    """Of the disk as it was when frozen: the last component of its path."""
    path: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    uuid: str
    name: str
    vm_uuid: str
    state: SnapshotState
    consistency: Consistency
    """What was really made, not what was asked."""
    files: tuple[SnapshotFile, ...] = ()
    created_at: float | None = None
    expires_at: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class CloneSource:
    """What an attached disk is to be a clone of: a snapshot's file or another vmdisk."""

    path: str | None = None
    vmdisk_uuid: str | None = None
    container_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class EmptyDisk:
    """A new disk of zeroes in a container."""

    size_bytes: int
    container_uuid: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A disk that we plugged into a VM; ``vmdisk_uuid`` is its identity everywhere."""

    vm_uuid: str
    slot: Slot
    vmdisk_uuid: str
    device_uuid: str
    size_bytes: int
    source_path: str | None = None
    source_vmdisk_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class MarkedVm:
    """A VM that bears our own install's mark: one that a restore made, or a clone of such a one."""

    uuid: str
    name: str
    mark: str
    """Its description: the key under which a restore made it, a colon, and words."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What carries our own install's name or origin on a cluster, whoever needs it."""

    snapshots: tuple[Snapshot, ...]
    attachments: tuple[Attachment, ...]
    """Disks of the Proxy VM that are clones of a snapshot file."""
    vms: tuple[MarkedVm, ...]
