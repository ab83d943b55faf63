"""What exists on the lab's cluster, and the file that keeps it.

Records change only on the lab's event loop; the file is replaced atomically before any
answer leaves, so that a kill at any time loses nothing that a client was told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field


class DiskRecord(BaseModel):
    """One entry of a VM's disk list. size_bytes is 0 for an empty drive and a volume group."""

    device_uuid: str
    kind: str = "DISK"
    bus: str = "SCSI"
    index: int
    size_bytes: int = 0
    vmdisk_uuid: str | None = None
    container_uuid: str | None = None
    source_path: str | None = None
    source_vmdisk_uuid: str | None = None
    volume_group_uuid: str | None = None
    data_source: dict[str, str] | None = None
    is_passthrough: bool = True
    content: str = ""
    """What its guest keeps on it, if that is known."""

    @property
    def label(self) -> str:
        return f"{self.bus.lower()}.{self.index}"


class NicRecord(BaseModel):
    uuid: str
    mac_address: str
    network_uuid: str
    is_connected: bool = True
    ip_address: str | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    """Members of a v3 card that the lab keeps without understanding them."""


class VmRecord(BaseModel):
    uuid: str
    name: str
    description: str = ""
    memory_mib: int = 2048
    sockets: int = 1
    cores: int = 1
    is_on: bool = False
    host_uuid: str | None = None
    boot_type: str = "LEGACY"
    boot_slot: tuple[str, int] | None = None
    boot_order: list[str] = Field(default_factory=list)
    machine_type: str = "PC"
    has_vtpm: bool = False
    timezone: str = "UTC"
    categories: dict[str, list[str]] = Field(default_factory=dict)
    guest_tools: str = "none"
    ha_priority: int = 0
    protection_type: str = "UNPROTECTED"
    cbr_not_capable_reason: str | None = None
    is_controller: bool = False
    is_elsewhere: bool = False
    nvram_uuid: str | None = None
    disks: list[DiskRecord] = Field(default_factory=list)
    nics: list[NicRecord] = Field(default_factory=list)
    extra: dict[str, Any] = Field(default_factory=dict)
    """Members of v3 resources that the lab keeps without understanding them."""
    spec_version: int = 0
    logical_timestamp: int = 1
    created_at: float = 0.0
    updated_at: float = 0.0

    def slot(self, bus: str, index: int) -> DiskRecord | None:
        return next((disk for disk in self.disks if (disk.bus, disk.index) == (bus, index)), None)

    def by_vmdisk(self, vmdisk_uuid: str) -> DiskRecord | None:
        return next((disk for disk in self.disks if disk.vmdisk_uuid == vmdisk_uuid), None)

    def by_device(self, device_uuid: str) -> DiskRecord | None:
        return next((disk for disk in self.disks if disk.device_uuid == device_uuid), None)


class FrozenFile(BaseModel):
    """A file inside a snapshot; frozen is its place in the disk bank, None for ISO and NVRAM."""

    file_path: str
    snapshot_path: str
    vmdisk_uuid: str
    size_bytes: int = 0
    frozen: str | None = None


class SnapshotRecord(BaseModel):
    """A v3 vm_snapshot."""

    uuid: str
    name: str
    vm_uuid: str
    asked_type: str
    made_type: str
    number: int
    expires_ms: int | None = None
    state: Literal["PENDING", "COMPLETE", "ERROR"] = "PENDING"
    problem: str | None = None
    files: list[FrozenFile] = Field(default_factory=list)
    group_uuid: str
    location_uuid: str
    task_uuid: str | None = None
    spec_version: int = 0
    created_at: float = 0.0
    updated_at: float = 0.0
    deleted_at: float | None = None


class OldSnapshotRecord(BaseModel):
    """A v2 snapshot: carries the VM as it was."""

    uuid: str
    group_uuid: str
    vm: VmRecord
    name: str
    created_at: float
    files: list[FrozenFile] = Field(default_factory=list)


class TaskRecord(BaseModel):
    """One task, whatever API made it; ``order`` is what is still to be done."""

    uuid: str
    operation: str
    """The lab's name of the call that made it."""
    kind: str
    """Prism's name, e.g. VmDiskCreate."""
    status: Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "ABORTED"] = "QUEUED"
    entities: list[tuple[str, str, str]] = Field(default_factory=list)
    """(kind, uuid, name)."""
    turn: str = ""
    """Tasks with the same turn (a VM's UUID) run one after the other."""
    order: str
    args: dict[str, Any] = Field(default_factory=dict)
    error_code: int = 0
    error_detail: str = ""
    created_at: float = 0.0
    started_at: float | None = None
    completed_at: float | None = None
    unseen_gets: int = 0
    """How many more looks answer 404."""
    is_lost: bool = False
    """Purged before its time: answers 404."""

    @property
    def is_done(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "ABORTED")


class ContainerRecord(BaseModel):
    uuid: str
    name: str
    number: int
    capacity_bytes: int
    free_bytes: int


class NetworkRecord(BaseModel):
    uuid: str
    name: str
    vlan_id: int


class HostRecord(BaseModel):
    uuid: str
    name: str
    address: str


class VolumeGroupRecord(BaseModel):
    uuid: str
    name: str
    vmdisk_uuid: str
    size_bytes: int
    container_uuid: str
    vm_uuids: list[str] = Field(default_factory=list)


class IdempotenceRecord(BaseModel):
    client_identifier: str
    uuids: list[str]
    expires_at: float


class LockRecord(BaseModel):
    """Wrong passwords in a row of one user, and until when that locks the account."""

    wrong: int = 0
    locked_until: float = 0.0


class State(BaseModel):
    """The whole cluster."""

    address: str
    central_address: str
    cluster_uuid: str
    cluster_name: str
    incarnation: int
    central_uuid: str
    admin_uuid: str
    proxy_uuid: str
    vms: dict[str, VmRecord] = Field(default_factory=dict)
    snapshots: dict[str, SnapshotRecord] = Field(default_factory=dict)
    old_snapshots: dict[str, OldSnapshotRecord] = Field(default_factory=dict)
    tasks: dict[str, TaskRecord] = Field(default_factory=dict)
    containers: dict[str, ContainerRecord] = Field(default_factory=dict)
    networks: dict[str, NetworkRecord] = Field(default_factory=dict)
    hosts: dict[str, HostRecord] = Field(default_factory=dict)
    volume_groups: dict[str, VolumeGroupRecord] = Field(default_factory=dict)
    idempotence: dict[str, IdempotenceRecord] = Field(default_factory=dict)
    locks: dict[str, LockRecord] = Field(default_factory=dict)
    next_snapshot_number: int = 8144
    notes: list[str] = Field(default_factory=list)
    """What this machine could not make as the options wished it."""

    def vm_by_name(self, name: str) -> VmRecord:
        """Raises KeyError."""
        found = next((vm for vm in self.vms.values() if vm.name == name), None)
        if found is None:
            raise KeyError(f"the lab has no VM {name!r}")
        return found

    def container_by_name(self, name: str) -> ContainerRecord:
        """Raises KeyError."""
        found = next((c for c in self.containers.values() if c.name == name), None)
        if found is None:
            raise KeyError(f"the lab has no storage container {name!r}")
        return found

    def live_snapshot(self, uuid: str, now: float) -> SnapshotRecord | None:
        """A snapshot that is neither deleted nor expired."""
        found = self.snapshots.get(uuid)
        return None if found is None or is_gone(found, now) else found


def is_gone(snapshot: SnapshotRecord, now: float) -> bool:
    """Deleted, or past its own expiry."""
    expired = snapshot.expires_ms is not None and snapshot.expires_ms <= now * 1000
    return snapshot.deleted_at is not None or expired


class StateFile:
    """``state.json`` in the lab's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"

    def load(self) -> State | None:
        """None before the first start."""
        return State.model_validate_json(self.path.read_bytes()) if self.path.exists() else None

    def save(self, state: State) -> None:
        """Replace it as a whole; a reader or a restart sees the old or the new one."""
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(state.model_dump_json().encode())
        fresh.replace(self.path)
