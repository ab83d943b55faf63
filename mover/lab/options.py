"""What a lab is made of: addresses, users, VMs, limits, and a switch for each open question.

Where Prism's documentation is silent or contradicts itself, the lab has a switch instead
of an opinion; the contract tests run both positions.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mover.units import GIB, MIB

PORT = 9440
AUTO = "auto"


def _loopback(address: str) -> str:
    """The lab's passwords are known and its control port asks for none: it stays on this machine."""
    if address != AUTO and not ipaddress.ip_address(address).is_loopback:
        raise ValueError(f"{address} is no loopback address")
    return address


Loopback = Annotated[str, AfterValidator(_loopback)]


class Spec(BaseModel):
    """A value that never changes once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DiskSpec(Spec):
    """One entry of a VM's disk list at the lab's first start."""

    size_bytes: int = 64 * MIB
    kind: Literal["DISK", "CDROM", "VOLUME_GROUP"] = "DISK"
    bus: Literal["SCSI", "IDE", "SATA", "PCI"] = "SCSI"
    index: int | None = None
    """None: the next free one of its bus."""
    content: Literal["empty", "mixed", "random", "web", "database", "share", "areas"] = "mixed"
    """mixed: seeded random, zero and unwritten areas, made in no time. web, database, share: real
    file systems with files (ext4, XFS, ext4 in a partition). areas: as mixed, larger."""
    content_bytes: int = 0
    """How much of the last four is used; 0: a quarter of the size."""
    container: str = "default"
    is_empty: bool = False
    """A CD-ROM drive without a disc."""


class NicSpec(Spec):
    network: str = "vlan10"
    mac_address: str | None = None
    """None: a new one with Prism's prefix."""
    is_connected: bool = True
    ip_address: str | None = None


class VmSpec(Spec):
    """A guest at the lab's first start."""

    name: str
    disks: tuple[DiskSpec, ...] = (DiskSpec(),)
    nics: tuple[NicSpec, ...] = (NicSpec(),)
    uuid: str | None = None
    memory_mib: int = 2048
    sockets: int = 2
    is_on: bool = True
    boot_type: Literal["LEGACY", "UEFI", "SECURE_BOOT"] = "LEGACY"
    machine_type: Literal["PC", "Q35"] = "PC"
    has_vtpm: bool = False
    categories: dict[str, list[str]] = Field(default_factory=dict)
    """Seen through Central only."""
    guest_tools: Literal["none", "unreachable", "vss"] = "none"
    """vss: an application-consistent snapshot is possible."""
    protection_type: Literal["UNPROTECTED", "PD_PROTECTED", "RULE_PROTECTED"] = "UNPROTECTED"
    cbr_not_capable_reason: str | None = None
    is_controller: bool = False
    """A CVM: in no list."""
    is_elsewhere: bool = False
    """On the second cluster, of which only Central tells."""
    description: str = ""


class LabOptions(Spec):
    """Everything that makes one lab; read at its first start, then the state rules what exists."""

    address: Loopback = AUTO
    """Element's loopback address. auto: a free 127.x.y.z, so that labs run side by side."""
    central_address: Loopback = AUTO
    port: int = PORT
    """As on every real Prism. Central tells of an Element's address only, never of a port."""
    has_central: bool = True
    central_lists_unreachable: bool = False
    """Central also lists a second Element that does not answer."""
    central_tells_address: bool = True
    """Central knows external_ip of its Element."""
    has_element: bool = True
    """False: Central is up, its Element is down."""
    certificate_dir: Path | None = None
    """Where certificates are kept between labs; None: in the lab's folder."""
    seed: int = 1
    use_loop: bool | None = None
    """Real loop devices; None: when root."""
    sector_bytes: int | None = None
    """512 or 4096; None: what the disks' file system asks for."""

    cluster_name: str = "lab"
    aos_version: str = "6.10"
    username: str = "admin"
    password: str = "nutanix/4u"  # noqa: S105 - the lab's own, printed at its start
    viewer_username: str = "viewer"
    viewer_password: str = "viewer/4u"  # noqa: S105 - as above
    session_life_s: float = 900.0
    lockout_tries: int = 5
    """Wrong passwords in a row that lock an account; 0: never."""
    lockout_s: float = 900.0
    lockout_status: int = 401

    vms: tuple[VmSpec, ...] = ()
    proxy_name: str = "proxy01"
    proxy_disks: tuple[DiskSpec, ...] = (DiskSpec(size_bytes=16 * MIB, content="empty"),)
    containers: tuple[str, ...] = ("default", "fast")
    container_capacity_bytes: int = 500 * GIB
    container_free_bytes: int = 400 * GIB
    networks: tuple[str, ...] = ("vlan10", "vlan20")
    categories: dict[str, list[str]] = Field(default_factory=lambda: {"Backup": ["Gold", "Silver"]})

    v3_page_cap: int = 20
    v2_page_cap: int = 500
    regions_per_page: int = 64
    scan_window_bytes: int | None = None
    """Bytes that one changed_regions call looks at: pages may then be empty."""
    task_delay_s: float = 0.01
    snapshot_delay_s: float = 0.01
    deleted_snapshot_lingers_s: float = 0.0
    """A deleted snapshot stays visible for this long."""
    deleted_snapshot_state: Literal["DELETE_PENDING", "COMPLETE"] = "DELETE_PENDING"
    """What it says of itself meanwhile."""
    scsi_slots: int = 256
    purge_tasks_over: int = 300

    attach_container: Literal["optional", "required", "prohibited"] = "optional"
    """storage_container_uuid beside a v3 snapshot's path."""
    attach_source_bus: Literal["optional", "required"] = "optional"
    """device_bus inside the source's address, beside a v3 snapshot's path."""
    attach_refusal: Literal["sync", "sync-500", "task"] = "sync"
    """Where a body that breaks the rules above fails: at once (422, or 500 with v2's error body), or in its task."""
    snapshot_shows_context: bool = True
    """status.execution_context of a vm_snapshot."""
    repeated_uuid: Literal["accept", "conflict", "refuse"] = "accept"
    """POST with a metadata.uuid or v2 uuid that exists already: 202, 409 or 422. v2 knows no 409."""
    missing_vm_status: Literal[404, 500] = 404
    """v2's answer for a VM that is not there."""
    stale_session: Literal["401", "login-page"] = "401"
    """What a cookie that has expired gets: 401, or the log-in page of a browser with 403."""
    v3_lag_s: float = 0.0
    """For so long v3 goes on showing a VM as it was before a disk came or went, or before it was deleted."""
    detach_missing: Literal["succeed", "fail"] = "fail"
    missing_base_status: Literal[400, 404] = 404
    list_grown_tail: bool = True
    last_page_says: Literal["nothing", "null", "zero"] = "nothing"
    """next_offset when there is nothing more: absent, null or 0."""
    list_holes: bool = True
    """Without a reference, unallocated space is listed as ZEROED; else it is not listed."""
    quiesce_failure: Literal["degrade", "error"] = "degrade"
    """What an application-consistent request does that cannot be met."""
    element_categories: Literal["missing", "empty"] = "missing"
    execution_context_list: bool = False
    """Some builds put a list task_uuids there."""
    element_makes_vms: bool = True
    """False: an Element's v3 answers 405 to the making, changing and deleting of VMs; its v2 does it."""
    tells_side: bool = True
    """X-Ntnx-Env says pe or pc in each answer."""
    element_lists_all: bool = False
    """An Element's v3 lists its Central and the other clusters too, before itself."""
    odd_answers: bool = False
    """As builds to come may answer: members that nobody knows, null for what is empty, UUIDs in upper case."""
    container_stats: Literal["told", "unknown", "missing"] = "told"
    """A container's usage_stats: with numbers, with -1, or none."""
    source_is_shown: bool = True
    """False: source_disk_address of a clone is absent."""
    error_spelling: Literal["ERROR", "kError"] = "ERROR"
    """status.state of a snapshot that failed."""
    snapshot_extras: bool = True
    """snapshot_file_list also names CD-ROM and NVRAM files."""
    refuse_unknown_members: bool = True
    """422 for a member of a v3 body that its schema does not have."""
    unseen_task_gets: int = 0
    """How often a new task answers 404 before it is seen."""
    new_vm_hidden_s: float = 0.0
    """For so long a new VM is 404 to vm_snapshots."""
    serial_spelling: Literal["underscore", "dash", "colon"] = "underscore"
    """How the vmdisk UUID is written in a device's serial."""
    clock_skew_s: float = 0.0
    """Prism's clock minus ours, in Date headers and expiries."""
