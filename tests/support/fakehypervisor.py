"""A hypervisor in memory, with disks of real bytes, and faults armed by call.

It keeps to ``hypervisor.protocol`` where a real one does: the disks of snapshots are frozen,
an attached clone is a disk of its own, detach deletes, keys make snapshot and create
idempotent. Its disks are found by ``fakedevices.FakeDevices``.

    world.fail("attach", 2, How.EFFECT_THEN_ERROR)     # the second attach
    world.calls                                         # every call so far

With ``file`` the world is written there after each change, so that it survives the kill of
the process that used it.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mover.errors import BaseGone, ChangedRegionsInvalid, MoverError, NotFound, RequestRefused, SlotOccupied
from mover.hypervisor.protocol import About, ChangedRegions, VmRequest
from mover.model.machine import (
    Attachment,
    CloneSource,
    Cluster,
    Consistency,
    Disk,
    DiskKind,
    EmptyDisk,
    Inventory,
    Leftovers,
    MarkedVm,
    Network,
    Nic,
    Slot,
    Snapshot,
    SnapshotFile,
    SnapshotState,
    StorageContainer,
    Vm,
)
from mover.model.region import RegionKind, Regions
from tests.support.hypervisorfaults import CHANGES, Faults, How

CLUSTER = Cluster("c0000000-0000-4000-8000-000000000001", "cluster", "6.10")
CONTAINER = "30000000-0000-4000-8000-000000000001"
NETWORK = "a0000000-0000-4000-8000-000000000001"
GRAIN = 4096


@dataclass
class State:
    """What a kill of the mover leaves untouched."""

    vms: dict[str, Vm] = field(default_factory=dict)
    data: dict[str, bytearray] = field(default_factory=dict)
    """vmdisk UUID → bytes."""
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    frozen: dict[str, bytes] = field(default_factory=dict)
    """File path → bytes."""
    keys: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    free_bytes: int = 1 << 40


class FakeHypervisor:
    """See the module."""

    def __init__(self, *, now: Any = lambda: 1_760_000_000.0, file: Path | None = None) -> None:
        self._now, self._file = now, file
        self.state = pickle.loads(file.read_bytes()) if file and file.exists() else State()
        self.failed: list[str] = []
        self.downgrade = False
        self.on_call: Any = None
        self.on_done: Any = None
        self._faults = Faults()

    # --- what tests do to it ---

    def add_vm(self, name: str, sizes: list[int], *, seed: int = 0, **facts: Any) -> Vm:
        """A VM with data disks of seeded bytes (a third zero) at scsi.0 and on."""
        dice = np.random.default_rng(seed)
        disks = []
        for index, size in enumerate(sizes):
            vmdisk = str(uuid.uuid4())
            blocks = dice.integers(0, 256, size, np.uint8)
            blocks[size // 3 : 2 * size // 3] = 0
            self.state.data[vmdisk] = bytearray(blocks.tobytes())
            disks.append(Disk(str(uuid.uuid4()), Slot("scsi", index), DiskKind.DISK, size, vmdisk, CONTAINER))
        vm = Vm(
            uuid=str(uuid.uuid4()),
            name=name,
            cluster_uuid=CLUSTER.uuid,
            host_uuid=None,
            is_on=True,
            disks=tuple(disks),
            nics=(Nic("50:6b:8d:00:00:01", NETWORK),),
            memory_bytes=1 << 30,
            vcpus=2,
            spec={"name": name, "nics": 1},
        )
        return self.put(replace(vm, **facts))

    def put(self, vm: Vm) -> Vm:
        self.state.vms[vm.uuid] = vm
        self._save()
        return vm

    def named(self, name: str) -> Vm:
        return next(vm for vm in self.state.vms.values() if vm.name == name)

    def bytes_of(self, vm: Vm, slot: str) -> bytes:
        disk = next(disk for disk in self.state.vms[vm.uuid].disks if str(disk.slot) == slot)
        return bytes(self.state.data[disk.vmdisk_uuid])

    def write(self, vm: Vm, slot: str, offset: int, data: bytes) -> None:
        disk = next(disk for disk in self.state.vms[vm.uuid].disks if str(disk.slot) == slot)
        self.state.data[disk.vmdisk_uuid][offset : offset + len(data)] = data
        self._save()

    def change_disk(self, vm: Vm, slot: str, **facts: Any) -> Vm:
        """Replace facts of a disk; a new size resizes its bytes, a new vmdisk_uuid takes them along."""
        vm = self.state.vms[vm.uuid]
        disks = []
        for disk in vm.disks:
            if str(disk.slot) == slot:
                changed = replace(disk, **facts)
                data = self.state.data.pop(disk.vmdisk_uuid)[: changed.size_bytes]
                self.state.data[changed.vmdisk_uuid] = data + bytearray(changed.size_bytes - len(data))
                disk = changed
            disks.append(disk)
        return self.put(replace(vm, disks=tuple(disks)))

    def fail(self, call: str | None, nth: int, how: How, error: MoverError | None = None) -> None:
        """Break the nth call of that name (None: of all) from now on."""
        self._faults.arm(call, nth, how, error)

    async def ripen(self) -> None:
        """Let late effects happen."""
        self._faults.ripen()

    # --- inventory ---

    async def about(self) -> About:
        return await self._do("about", lambda: About("element", "6.10", CLUSTER, "admin", True, 0.0))

    async def inventory(self) -> Inventory:
        network = Network(NETWORK, "net", CLUSTER.uuid)
        return await self._do(
            "inventory",
            lambda: Inventory((CLUSTER,), (), self._containers(), (network,), tuple(self.state.vms.values())),
        )

    async def vm(self, vm_uuid: str) -> Vm:
        return await self._do("vm", lambda: self._vm(vm_uuid))

    async def disks(self, vm_uuid: str) -> tuple[Disk, ...]:
        return await self._do("disks", lambda: self._vm(vm_uuid).disks)

    async def containers(self) -> tuple[StorageContainer, ...]:
        return await self._do("containers", self._containers)

    async def find_proxy(self, smbios_uuid: str, mac_addresses: Any) -> Vm:
        return await self._do("find_proxy", lambda: self._vm(smbios_uuid))

    # --- snapshots ---

    async def snapshot(
        self, vm_uuid: str, *, name: str, consistency: Consistency, key: str, expires_at: float
    ) -> Snapshot:
        return await self._do("snapshot", lambda: self._snapshot(vm_uuid, name, consistency, key, expires_at))

    async def find_snapshot(self, snapshot_uuid: str) -> Snapshot | None:
        return await self._do("find_snapshot", lambda: self.state.snapshots.get(snapshot_uuid))

    async def extend_snapshot(self, snapshot_uuid: str, expires_at: float) -> None:
        def extend() -> None:
            found = self.state.snapshots.get(snapshot_uuid)
            if found is None:
                raise NotFound("no such snapshot", remedy="none")
            self.state.snapshots[snapshot_uuid] = replace(found, expires_at=expires_at)

        await self._do("extend_snapshot", extend)

    async def delete_snapshot(self, snapshot_uuid: str) -> None:
        def delete() -> None:
            gone = self.state.snapshots.pop(snapshot_uuid, None)
            for file in gone.files if gone else ():
                self.state.frozen.pop(file.path, None)

        await self._do("delete_snapshot", delete)

    async def changed_regions(self, path: str, base_path: str | None, *, size_bytes: int) -> ChangedRegions:
        return await self._do("changed_regions", lambda: self._changed(path, base_path, size_bytes))

    # --- disks ---

    async def attach(self, vm_uuid: str, slot: Slot, source: CloneSource | EmptyDisk) -> Attachment:
        return await self._do("attach", lambda: self._attach(vm_uuid, slot, source))

    async def find_attachment(
        self, vm_uuid: str, slot: Slot, source: CloneSource | EmptyDisk, *, known_vmdisk_uuids: Any
    ) -> Attachment | None:
        return await self._do("find_attachment", lambda: self._find(vm_uuid, slot, source, known_vmdisk_uuids))

    async def detach(self, vm_uuid: str, vmdisk_uuid: str) -> None:
        def detach() -> None:
            vm = self._vm(vm_uuid)
            self.state.vms[vm_uuid] = replace(vm, disks=tuple(d for d in vm.disks if d.vmdisk_uuid != vmdisk_uuid))
            self.state.data.pop(vmdisk_uuid, None)

        await self._do("detach", detach)

    # --- VMs ---

    async def create_vm(self, request: VmRequest, *, key: str) -> str:
        return await self._do("create_vm", lambda: self._create_vm(request, key))

    async def finish_vm(self, vm_uuid: str, request: VmRequest) -> tuple[str, ...]:
        return await self._do("finish_vm", lambda: (self._vm(vm_uuid), ())[1])

    async def delete_vm(self, vm_uuid: str) -> None:
        def delete() -> None:
            gone = self.state.vms.pop(vm_uuid, None)
            for disk in gone.disks if gone else ():
                self.state.data.pop(disk.vmdisk_uuid, None)

        await self._do("delete_vm", delete)

    async def set_power(self, vm_uuid: str, *, on: bool) -> None:
        await self._do("set_power", lambda: self.put(replace(self._vm(vm_uuid), is_on=on)))

    async def leftovers(self, name_prefix: str, proxy_uuid: str) -> Leftovers:
        def look() -> Leftovers:
            plugged = self.state.vms[proxy_uuid].disks if proxy_uuid in self.state.vms else ()
            return Leftovers(
                snapshots=tuple(s for s in self.state.snapshots.values() if s.name.startswith(name_prefix)),
                attachments=tuple(_attachment(proxy_uuid, disk) for disk in plugged if disk.source_path),
                vms=tuple(
                    MarkedVm(vm.uuid, vm.name, vm.spec["description"])
                    for vm in self.state.vms.values()
                    if str(vm.spec.get("description", "")).startswith(name_prefix)
                ),
            )

        return await self._do("leftovers", look)

    async def close(self) -> None:
        """Nothing is open."""

    # --- how it works ---

    async def _do(self, name: str, effect: Any) -> Any:
        await asyncio.sleep(0)
        self._faults.age()
        self.state.calls.append(name)
        if self.on_call is not None:
            await self.on_call(name)
        fault = self._faults.met(name)
        if fault is None:
            answer = copy.deepcopy(effect())
            self._save(name)
            if self.on_done is not None:
                await self.on_done(name)
            return answer
        self.failed.append(name)
        if fault.how is How.EFFECT_THEN_ERROR:
            effect()
            self._save(name)
        if fault.how is How.LATE_EFFECT and name in CHANGES:
            self._faults.delay(effect)
        raise fault.answer(name)

    def _save(self, name: str = "attach") -> None:
        if self._file is not None and name in CHANGES:
            fresh = self._file.with_suffix(".new")
            fresh.write_bytes(pickle.dumps(self.state))
            fresh.replace(self._file)

    def _vm(self, vm_uuid: str) -> Vm:
        try:
            return self.state.vms[vm_uuid]
        except KeyError:
            raise NotFound(f"There is no VM {vm_uuid}", remedy="See the inventory.") from None

    def _containers(self) -> tuple[StorageContainer, ...]:
        return (StorageContainer(CONTAINER, "default", CLUSTER.uuid, 1 << 41, self.state.free_bytes),)

    def _snapshot(self, vm_uuid: str, name: str, consistency: Consistency, key: str, expires_at: float) -> Snapshot:
        if key in self.state.keys:
            return self.state.snapshots[self.state.keys[key]]
        vm = self._vm(vm_uuid)
        identity = str(uuid.uuid4())
        files = []
        for disk in vm.data_disks():
            path = f"/default/.snapshot/{identity}/{disk.vmdisk_uuid}"
            self.state.frozen[path] = bytes(self.state.data[disk.vmdisk_uuid])
            files.append(SnapshotFile(disk.vmdisk_uuid, path))
        made = Consistency.CRASH if self.downgrade else consistency
        snapshot = Snapshot(
            identity, name, vm_uuid, SnapshotState.COMPLETE, made, tuple(files), self._now(), expires_at
        )
        self.state.snapshots[identity] = snapshot
        self.state.keys[key] = identity
        return snapshot

    def _changed(self, path: str, base_path: str | None, size_bytes: int) -> ChangedRegions:
        if path not in self.state.frozen:
            raise NotFound(f"no file {path}", remedy="none")
        if base_path is not None and base_path not in self.state.frozen:
            raise BaseGone(f"no file {base_path}", remedy="A full is read.")
        now = self.state.frozen[path]
        if len(now) != size_bytes:
            raise ChangedRegionsInvalid("another size", remedy="none")
        base = self.state.frozen[base_path] if base_path else b""
        rows = []
        for offset in range(0, len(now), GRAIN):
            piece = now[offset : offset + GRAIN]
            if base_path is None and not any(piece):
                continue
            if base_path is not None and base[offset : offset + GRAIN] == piece:
                continue
            rows.append((offset, len(piece), int(RegionKind.DATA if any(piece) else RegionKind.ZERO)))
        regions = Regions.from_rows(np.array(rows, np.int64).reshape(-1, 3), size_bytes=size_bytes)
        return ChangedRegions(regions, size_bytes, 1)

    def _attach(self, vm_uuid: str, slot: Slot, source: CloneSource | EmptyDisk) -> Attachment:
        vm = self._vm(vm_uuid)
        if any(disk.slot == slot for disk in vm.disks):
            raise SlotOccupied(f"{slot} is taken", remedy="Choose another.")
        vmdisk = str(uuid.uuid4())
        if isinstance(source, EmptyDisk):
            data = bytearray(source.size_bytes)
            disk = Disk(str(uuid.uuid4()), slot, DiskKind.DISK, len(data), vmdisk, source.container_uuid)
        else:
            origin = self.state.frozen.get(source.path or "") or self.state.data.get(source.vmdisk_uuid or "")
            if origin is None:
                raise NotFound(f"no source {source}", remedy="none")
            data = bytearray(origin)
            disk = Disk(
                str(uuid.uuid4()), slot, DiskKind.DISK, len(data), vmdisk, CONTAINER, source.path, source.vmdisk_uuid
            )
        self.state.data[vmdisk] = data
        self.state.vms[vm_uuid] = replace(vm, disks=(*vm.disks, disk))
        return _attachment(vm_uuid, disk)

    def _find(self, vm_uuid: str, slot: Slot, source: CloneSource | EmptyDisk, known: Any) -> Attachment | None:
        disk = next((disk for disk in self._vm(vm_uuid).disks if disk.slot == slot), None)
        if disk is None or disk.vmdisk_uuid in known:
            return None
        if isinstance(source, EmptyDisk):
            has_source = disk.source_path or disk.source_vmdisk_uuid
            is_ours = not has_source and disk.size_bytes == source.size_bytes
        else:
            is_ours = (disk.source_path, disk.source_vmdisk_uuid) == (source.path, source.vmdisk_uuid)
        return _attachment(vm_uuid, disk) if is_ours else None

    def _create_vm(self, request: VmRequest, key: str) -> str:
        if key in self.state.keys:
            return self.state.keys[key]
        unknown = [net for net in request.network_map.values() if net != NETWORK]
        if unknown:
            raise RequestRefused(f"There is no network {unknown[0]}", remedy="Map it with --network.")
        identity = str(uuid.uuid4())
        self.state.vms[identity] = Vm(
            identity,
            request.name,
            CLUSTER.uuid,
            None,
            False,
            (),
            spec={**request.spec, "description": request.description, "nic_mode": str(request.nic_mode)},
        )
        self.state.keys[key] = identity
        return identity


def _attachment(vm_uuid: str, disk: Disk) -> Attachment:
    return Attachment(
        vm_uuid,
        disk.slot,
        disk.vmdisk_uuid,
        disk.device_uuid,
        disk.size_bytes,
        disk.source_path,
        disk.source_vmdisk_uuid,
    )
