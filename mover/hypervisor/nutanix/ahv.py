"""Nutanix AHV as a Hypervisor: v3 and v2 of one Element, and its Central where there is one.

Here only which part answers which call; the parts say how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from mover.clock import Clock
from mover.config import PrismSettings
from mover.hypervisor.nutanix import disks, forms, inventory, proxy, regions, snapshots, vms
from mover.hypervisor.nutanix.endpoints import Endpoints, find_endpoints, may_change
from mover.hypervisor.protocol import About, ChangedRegions, VmRequest
from mover.model.machine import (
    Attachment,
    CloneSource,
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

_SNAPSHOT_PLACES = ("/.snapshot/", "/.acropolis/snapshot/")


class Ahv:
    """See hypervisor.protocol for the contract. Logs in at the first call, not before."""

    def __init__(self, settings: PrismSettings, *, clock: Clock, state_dir: Path) -> None:
        self._settings, self._clock, self._state_dir = settings, clock, state_dir
        self._found: Endpoints | None = None
        self._finding = asyncio.Lock()
        self._shapes = forms.Shapes()

    async def about(self) -> About:
        """Idempotent; leaves nothing behind."""
        at = await self._at()
        return About(
            kind="element" if at.central is None else "central",
            version=at.cluster.version,
            cluster=at.cluster,
            user=at.user,
            is_admin=await may_change(at.element),
            clock_offset_s=at.element.clock_offset_s,
        )

    async def inventory(self) -> Inventory:
        return await inventory.read_inventory(await self._at())

    async def vm(self, vm_uuid: str) -> Vm:
        return await inventory.read_vm(await self._at(), vm_uuid.lower())

    async def disks(self, vm_uuid: str) -> tuple[Disk, ...]:
        return await inventory.read_disks((await self._at()).element, vm_uuid.lower())

    async def containers(self) -> tuple[StorageContainer, ...]:
        return await inventory.read_containers((await self._at()).element)

    async def find_proxy(self, smbios_uuid: str, mac_addresses: Collection[str]) -> Vm:
        return await proxy.find_proxy(await self._at(), smbios_uuid, mac_addresses)

    async def snapshot(
        self, vm_uuid: str, *, name: str, consistency: Consistency, key: str, expires_at: float
    ) -> Snapshot:
        """Idempotent under ``key``."""
        at = await self._at()
        return await snapshots.make_snapshot(
            at.element, vm_uuid.lower(), name=name, consistency=consistency, key=key, expires_at=expires_at
        )

    async def find_snapshot(self, snapshot_uuid: str) -> Snapshot | None:
        return await snapshots.find_snapshot((await self._at()).element, snapshot_uuid)

    async def extend_snapshot(self, snapshot_uuid: str, expires_at: float) -> None:
        """Idempotent: the same expiry again changes nothing."""
        await snapshots.extend_snapshot((await self._at()).element, snapshot_uuid, expires_at)

    async def delete_snapshot(self, snapshot_uuid: str) -> None:
        """Idempotent: gone already is success."""
        await snapshots.delete_snapshot((await self._at()).element, snapshot_uuid)

    async def changed_regions(self, path: str, base_path: str | None, *, size_bytes: int) -> ChangedRegions:
        return await regions.fetch((await self._at()).element, path, base_path, size_bytes=size_bytes)

    async def attach(self, vm_uuid: str, slot: Slot, source: CloneSource | EmptyDisk) -> Attachment:
        """NOT idempotent: sent once, then looked for."""
        return await disks.attach((await self._at()).element, vm_uuid.lower(), slot, source, self._shapes)

    async def find_attachment(
        self,
        vm_uuid: str,
        slot: Slot,
        source: CloneSource | EmptyDisk,
        *,
        known_vmdisk_uuids: Collection[str],
    ) -> Attachment | None:
        at = await self._at()
        return await disks.find_attachment(at.element, vm_uuid.lower(), slot, source, known_vmdisk_uuids)

    async def detach(self, vm_uuid: str, vmdisk_uuid: str) -> None:
        """Idempotent: by vmdisk UUID, gone already is success."""
        await disks.detach((await self._at()).element, vm_uuid.lower(), vmdisk_uuid.lower())

    async def create_vm(self, request: VmRequest, *, key: str) -> str:
        """Idempotent under ``key``."""
        return await vms.create_vm(await self._at(), request, key=key)

    async def finish_vm(self, vm_uuid: str, request: VmRequest) -> tuple[str, ...]:
        """Idempotent: sets states, not changes."""
        return await vms.finish_vm(await self._at(), vm_uuid.lower(), request)

    async def delete_vm(self, vm_uuid: str) -> None:
        """Idempotent: gone already is success."""
        await vms.delete_vm((await self._at()).element, vm_uuid.lower())

    async def set_power(self, vm_uuid: str, *, on: bool) -> None:
        """Idempotent by the state that it asks for."""
        await vms.set_power((await self._at()).element, vm_uuid.lower(), on=on)

    async def leftovers(self, name_prefix: str, proxy_uuid: str) -> Leftovers:
        at = await self._at()
        there = await inventory.read_disks(at.element, proxy_uuid.lower())
        plugged = [disk for disk in there if _is_from_a_snapshot(disk)]
        return Leftovers(
            snapshots=await snapshots.list_snapshots(at.element, name_prefix),
            attachments=tuple(disks.as_attachment(proxy_uuid.lower(), disk) for disk in plugged),
            vms=tuple(vm for vm in await vms.list_vms(at.element, name_prefix) if vm.uuid != proxy_uuid.lower()),
        )

    async def close(self) -> None:
        if self._found is not None:
            found, self._found = self._found, None
            await found.close()

    async def _at(self) -> Endpoints:
        async with self._finding:
            if self._found is None:
                self._found = await find_endpoints(self._settings, clock=self._clock, state_dir=self._state_dir)
            return self._found


def _is_from_a_snapshot(disk: Disk) -> bool:
    """A clone of a frozen file. The disk of a VM that was restored itself names such a file, but bears its UUID."""
    path = disk.source_path or ""
    return any(place in path for place in _SNAPSHOT_PLACES) and path.rpartition("/")[2].lower() != disk.vmdisk_uuid


async def connect(settings: PrismSettings, *, clock: Clock, state_dir: Path) -> Ahv:
    """Log in and find the Element. Raises what ``Hypervisor.about`` raises."""
    ahv = Ahv(settings, clock=clock, state_dir=state_dir)
    try:
        await ahv.about()
    except BaseException:  # cancelled too: its connections are nobody else's to close; raised again
        await ahv.close()
        raise
    return ahv
