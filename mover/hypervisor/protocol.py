"""What a hypervisor owes us. One contract suite runs on every implementation.

What every method may raise stands at ``Hypervisor``.
A change whose answer was lost and whose effect could not be seen by looking raises
EffectUnknown: the caller looks again later (``find_*``) and never sends a second time.
UUIDs are lower case; names of what we make are the caller's and begin with our prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from mover.model.machine import (
    Attachment,
    CloneSource,
    Cluster,
    Consistency,
    Disk,
    EmptyDisk,
    Inventory,
    Leftovers,
    Slot,
    Snapshot,
    StorageContainer,
    Vm,
)
from mover.model.region import Regions

BUSY_WITHIN_S = 900.0
"""How long, from its first call on, a change of a VM that is busy is asked for again.
A live migration copies the VM's memory: 1 TiB at 10 Gbit/s takes a quarter of an hour."""


class NicMode(StrEnum):
    """What a restored VM's network cards look like."""

    KEEP = "keep"
    NEW_MAC = "new-mac"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True)
class ChangedRegions:
    """Sorted, merged, clipped regions of one snapshot file, and the file's size."""

    regions: Regions
    file_size_bytes: int
    pages: int


@dataclass(frozen=True, slots=True)
class VmRequest:
    """A VM to be rebuilt without its data disks, powered off."""

    name: str
    spec: Mapping[str, Any]
    """``Vm.spec`` as it was saved."""
    nic_mode: NicMode
    network_map: Mapping[str, str]
    """Saved network (UUID or name) → network here (UUID, or a name that only one has).
    A network in neither fails with RequestRefused."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """Which Prism this is and who we are to it."""

    kind: str
    """element | central"""
    version: str
    cluster: Cluster
    """The cluster that does the data work (the Element's own)."""
    user: str
    is_admin: bool
    clock_offset_s: float
    """Prism's clock minus ours, from the Date header."""


class Hypervisor(Protocol):
    """Every method but ``close`` may raise HypervisorUnreachable, LoginRefused, CertificateRejected, RightsMissing,
    Overloaded; and StateDamaged or StateFull, which are no HypervisorError: the state folder cannot take note of a
    log-in that was refused before and is due again, so it was not sent.
    """

    async def about(self) -> About:
        """Log in, find the Element, say what is there. Raises UnsupportedEndpoint, CertificateRejected."""

    async def inventory(self) -> Inventory:
        """Everything, paged to the end. Disks are always included; categories only through a Central.

        ``Vm.spec`` is empty here, since a big cluster's would not fit: ``vm`` reads it.
        """

    async def vm(self, vm_uuid: str) -> Vm:
        """One VM as it is now, with both UUIDs of each disk. Raises NotFound."""

    async def disks(self, vm_uuid: str) -> tuple[Disk, ...]:
        """What sits in a VM's slots now: as ``vm``, but one call, and of the Element alone. Raises NotFound."""

    async def containers(self) -> tuple[StorageContainer, ...]:
        """Storage containers with free space as it is now."""

    async def find_proxy(self, smbios_uuid: str, mac_addresses: Collection[str]) -> Vm:
        """Our own VM: the UUID must exist and share a MAC address with us. Raises ProxyUnfit."""

    async def snapshot(
        self, vm_uuid: str, *, name: str, consistency: Consistency, key: str, expires_at: float
    ) -> Snapshot:
        """Freeze a VM; wait until complete, with its files. Idempotent under ``key``.

        The same key gives the same snapshot after any crash. Raises NotFound (the VM is
        gone), SnapshotIncomplete, ConsistencyDowngraded never: the caller compares.
        """

    async def find_snapshot(self, snapshot_uuid: str) -> Snapshot | None:
        """Look; None when it does not exist."""

    async def extend_snapshot(self, snapshot_uuid: str, expires_at: float) -> None:
        """Put off its expiry. Raises NotFound."""

    async def delete_snapshot(self, snapshot_uuid: str) -> None:
        """Idempotent; returns when it is gone or its deletion is accepted."""

    async def changed_regions(self, path: str, base_path: str | None, *, size_bytes: int) -> ChangedRegions:
        """What differs between two frozen files of a disk; without a base: what is allocated.

        Raises BaseGone when the base does not exist, NotFound when ``path`` does not,
        ChangedRegionsInvalid when the answer breaks its own rules (not advancing, negative,
        beyond the end, another file size).
        """

    async def attach(self, vm_uuid: str, slot: Slot, source: CloneSource | EmptyDisk) -> Attachment:
        """Plug a clone or an empty disk into a free slot; returns when Prism shows it there.

        Not idempotent: sent again only after a proof that it had no effect, and within BUSY_WITHIN_S.
        Callers hold the only lease on the VM and wrote their intent before. Raises SlotOccupied,
        NotFound (the source), TaskFailed, EffectUnknown.
        """

    async def find_attachment(
        self,
        vm_uuid: str,
        slot: Slot,
        source: CloneSource | EmptyDisk,
        *,
        known_vmdisk_uuids: Collection[str],
    ) -> Attachment | None:
        """What stands in our slot, if it is provably from that attach: same source, not known before."""

    async def detach(self, vm_uuid: str, vmdisk_uuid: str) -> None:
        """Unplug and thereby DELETE a disk, addressed by vmdisk UUID. Idempotent, proven by a GET."""

    async def create_vm(self, request: VmRequest, *, key: str) -> str:
        """Make the VM, powered off, without data disks; returns its UUID. Idempotent under ``key``."""

    async def finish_vm(self, vm_uuid: str, request: VmRequest) -> tuple[str, ...]:
        """Boot device, categories: what needs the disks in place. Returns warnings in words."""

    async def delete_vm(self, vm_uuid: str) -> None:
        """Delete a VM that we half made. Idempotent."""

    async def set_power(self, vm_uuid: str, *, on: bool) -> None:
        """Power a VM on or off (hard). Idempotent."""

    async def leftovers(self, name_prefix: str, proxy_uuid: str) -> Leftovers:
        """All that bears our prefix or, on the Proxy VM, comes from a snapshot."""

    async def close(self) -> None:
        """Log out and let go of connections."""
