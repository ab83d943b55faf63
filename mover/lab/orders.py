"""What tasks do to VMs and disks. Each order can be carried out again after a kill.

New disks get their UUIDs when the order is written, so that a second try finds what the
first one left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mover.lab.answers import TaskFailure
from mover.lab.cluster import Cluster
from mover.lab.state import DiskRecord, NicRecord, VmRecord
from mover.lab.tasks import Effect


class DiskWish(BaseModel):
    """One disk to be made: empty, a clone, an empty drive, or a volume group's entry."""

    device_uuid: str
    vmdisk_uuid: str
    kind: str = "DISK"
    bus: str | None = None
    index: int | None = None
    size_bytes: int = 0
    container_uuid: str | None = None
    clone_path: str | None = None
    clone_vmdisk_uuid: str | None = None
    snapshot_group_uuid: str | None = None
    minimum_size: int = 0
    is_passthrough: bool = True
    volume_group_uuid: str | None = None
    data_source: dict[str, str] | None = None

    @property
    def is_clone(self) -> bool:
        return bool(self.clone_path or self.clone_vmdisk_uuid)


class Orders:
    """The effects of tasks on VMs; ``effects`` is what the task book runs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.effects: dict[str, Effect] = {
            "attach": self._attach,
            "refuse": self._refuse,
            "detach": self._detach,
            "resize": self._resize,
            "power": self._power,
            "create_vm": self._create_vm,
            "delete_vm": self._delete_vm,
            "replace_vm": self._replace_vm,
            "change_vm": self._change_vm,
        }

    def _vm(self, uuid: str) -> VmRecord:
        found = self._cluster.state.vms.get(uuid)
        if found is None:
            raise TaskFailure(f"kNotFound: VM {uuid} does not exist")
        return found

    # --- disks ----------------------------------------------------------------------------

    async def _attach(self, args: dict[str, Any]) -> None:
        vm = self._vm(args["vm"])
        self._cluster.remember(vm)
        for wish in args["wishes"]:
            await self.make_disk(vm, DiskWish.model_validate(wish), hot=True)
        self._cluster.touch(vm)

    async def _refuse(self, args: dict[str, Any]) -> None:
        raise TaskFailure(f"kInvalidArgument: {args['detail']}")

    async def make_disk(self, vm: VmRecord, wish: DiskWish, *, hot: bool) -> None:
        """Make and plug one disk. Raises TaskFailure: slot, source, container."""
        if vm.by_device(wish.device_uuid):
            return
        disk = self._placed(vm, wish, hot)
        if wish.is_clone:
            source, size_bytes = self._source(wish)
            await self._clone(source, disk, max(size_bytes, wish.minimum_size))
        elif disk.kind == "DISK" or wish.size_bytes:
            await self._create(disk, wish.size_bytes)
        await self._cluster.plug(vm, disk)
        vm.disks.append(disk)
        self._join_volume_group(vm, disk)

    def _placed(self, vm: VmRecord, wish: DiskWish, hot: bool) -> DiskRecord:
        cluster = self._cluster
        bus = wish.bus or ("SCSI" if wish.kind != "CDROM" else "SATA" if vm.machine_type == "Q35" else "IDE")
        if bus == "IDE" and vm.machine_type == "Q35":
            raise TaskFailure("kInvalidArgument: machine type Q35 has no IDE")
        if hot and vm.is_on and bus != "SCSI":
            raise TaskFailure(f"kNotSupported: {bus} disks cannot be added to a running VM")
        index = cluster.free_index(vm, bus) if wish.index is None else wish.index
        if index >= cluster.slots(bus):
            raise TaskFailure(f"kInvalidArgument: {bus.lower()}.{index} is beyond the last slot")
        if vm.slot(bus, index):
            raise TaskFailure(f"kInvalidArgument: disk address {bus.lower()}.{index} is already in use")
        if wish.container_uuid and wish.container_uuid not in cluster.state.containers:
            raise TaskFailure(f"kNotFound: storage container {wish.container_uuid} does not exist")
        has_file = wish.kind == "DISK" or wish.is_clone or wish.size_bytes
        return DiskRecord(
            device_uuid=wish.device_uuid,
            kind=wish.kind,
            bus=bus,
            index=index,
            vmdisk_uuid=wish.vmdisk_uuid if has_file else None,
            container_uuid=self._container(wish) if has_file else None,
            source_path=wish.clone_path,
            source_vmdisk_uuid=wish.clone_vmdisk_uuid,
            volume_group_uuid=wish.volume_group_uuid,
            data_source=wish.data_source,
            is_passthrough=wish.is_passthrough,
        )

    def _container(self, wish: DiskWish) -> str | None:
        """A clone lives in the container of its source."""
        cluster = self._cluster
        if wish.clone_path:
            return cluster.container_of_path(wish.clone_path)
        if wish.clone_vmdisk_uuid and (found := cluster.find_vmdisk(wish.clone_vmdisk_uuid)):
            return found[1].container_uuid
        return wish.container_uuid or next(iter(cluster.state.containers))

    def _source(self, wish: DiskWish) -> tuple[Path, int]:
        """File and size of what is to be cloned."""
        cluster, path = self._cluster, wish.clone_path or ""
        if wish.snapshot_group_uuid:
            old = cluster.find_old_frozen(
                path=path, group_uuid=wish.snapshot_group_uuid, vmdisk_uuid=wish.clone_vmdisk_uuid or ""
            )
        else:
            old = cluster.find_old_frozen(path=path) if path else None
        if old is not None:
            return cluster.frozen_file(old), old.size_bytes
        if path and (frozen := cluster.find_frozen(path)):
            return cluster.frozen_file(frozen[1]), frozen[1].size_bytes
        live = cluster.find_vmdisk(wish.clone_vmdisk_uuid or path.rpartition("/")[2])
        if live is None or (path and path != cluster.live_path(live[1])) or live[1].vmdisk_uuid is None:
            raise TaskFailure(f"kNotFound: {path or wish.clone_vmdisk_uuid} does not exist")
        return cluster.bank.path(live[1].vmdisk_uuid), live[1].size_bytes

    async def _clone(self, source: Path, disk: DiskRecord, size_bytes: int) -> None:
        cluster, uuid = self._cluster, str(disk.vmdisk_uuid)
        await cluster.blocking(cluster.bank.drop, cluster.bank.path(uuid))
        made = await cluster.blocking(cluster.bank.clone, source, uuid)
        disk.size_bytes = made.stat().st_size
        if size_bytes > disk.size_bytes:
            await cluster.blocking(cluster.bank.grow, uuid, size_bytes)
            disk.size_bytes = size_bytes

    async def _create(self, disk: DiskRecord, size_bytes: int) -> None:
        cluster, uuid = self._cluster, str(disk.vmdisk_uuid)
        await cluster.blocking(cluster.bank.drop, cluster.bank.path(uuid))
        await cluster.blocking(cluster.bank.create, uuid, size_bytes)
        disk.size_bytes = size_bytes

    def _join_volume_group(self, vm: VmRecord, disk: DiskRecord) -> None:
        group = self._cluster.state.volume_groups.get(disk.volume_group_uuid or "")
        if group is not None and vm.uuid not in group.vm_uuids:
            group.vm_uuids.append(vm.uuid)

    async def _detach(self, args: dict[str, Any]) -> None:
        """vmdisk_uuid wins over path, path over slot. The disk is deleted with all its bytes."""
        vm = self._vm(args["vm"])
        self._cluster.remember(vm)
        for address in args["addresses"]:
            disk = _addressed(self._cluster, vm, address)
            if disk is not None:
                await self.delete_disk(vm, disk)
                self._cluster.touch(vm)
            elif self._cluster.options.detach_missing == "fail":
                raise TaskFailure(f"kNotFound: VM {vm.name} has no disk {address}")

    async def delete_disk(self, vm: VmRecord, disk: DiskRecord) -> None:
        await self._cluster.unplug(vm, disk)
        vm.disks.remove(disk)
        group = self._cluster.state.volume_groups.get(disk.volume_group_uuid or "")
        if group is not None:
            group.vm_uuids = [uuid for uuid in group.vm_uuids if uuid != vm.uuid]
        if vm.boot_slot == (disk.bus, disk.index):
            vm.boot_slot = None
        if disk.vmdisk_uuid is not None:
            await self._cluster.blocking(self._cluster.bank.drop, self._cluster.bank.path(disk.vmdisk_uuid))

    async def _resize(self, args: dict[str, Any]) -> None:
        vm = self._vm(args["vm"])
        disk = _addressed(self._cluster, vm, args["address"])
        if disk is None:
            raise TaskFailure(f"kNotFound: VM {vm.name} has no disk {args['address']}")
        await self.grow_disk(vm, disk, args["size_bytes"])

    async def grow_disk(self, vm: VmRecord, disk: DiskRecord, size_bytes: int) -> None:
        """Raises TaskFailure when it would shrink."""
        if size_bytes < disk.size_bytes:
            raise TaskFailure("kInvalidArgument: a disk cannot be made smaller")
        if disk.vmdisk_uuid is None:
            raise TaskFailure("kInvalidArgument: an empty drive cannot be resized")
        await self._cluster.blocking(self._cluster.bank.grow, disk.vmdisk_uuid, size_bytes)
        disk.size_bytes = size_bytes
        if disk.vmdisk_uuid in self._cluster.hotplug.plugs():
            await self._cluster.blocking(self._cluster.hotplug.resized, disk.vmdisk_uuid)
        self._cluster.touch(vm)

    # --- VMs --------------------------------------------------------------------------------

    async def _power(self, args: dict[str, Any]) -> None:
        await self.set_power(self._vm(args["vm"]), is_on=args["is_on"])

    async def set_power(self, vm: VmRecord, *, is_on: bool) -> None:
        """A Proxy VM that is off has no devices."""
        if vm.is_on == is_on:
            return
        vm.is_on = is_on
        vm.host_uuid = next(iter(self._cluster.state.hosts)) if is_on else None
        for disk in vm.disks:
            if is_on:
                await self._cluster.plug(vm, disk)
            else:
                await self._cluster.unplug(vm, disk)
        self._cluster.touch(vm)

    async def _create_vm(self, args: dict[str, Any]) -> None:
        """The same UUID a second time changes nothing."""
        state = self._cluster.state
        vm = VmRecord.model_validate(args["vm"])
        if vm.uuid in state.vms:
            return
        self._check_networks(vm.nics)
        for wish in args["wishes"]:
            await self.make_disk(vm, DiskWish.model_validate(wish), hot=False)
        vm.created_at = vm.updated_at = self._cluster.now()
        vm.host_uuid = next(iter(state.hosts)) if vm.is_on else None
        state.vms[vm.uuid] = vm

    def _check_networks(self, nics: list[NicRecord]) -> None:
        used = {nic.mac_address for vm in self._cluster.state.vms.values() for nic in vm.nics}
        for nic in nics:
            if nic.network_uuid not in self._cluster.state.networks:
                raise TaskFailure(f"kNotFound: network {nic.network_uuid} does not exist")
            if nic.mac_address in used:
                raise TaskFailure(f"kInvalidArgument: MAC address {nic.mac_address} is already in use")

    async def _delete_vm(self, args: dict[str, Any]) -> None:
        vm = self._cluster.state.vms.get(args["vm"])
        if vm is None:
            return
        self._cluster.remember(vm)
        for disk in list(vm.disks):
            await self.delete_disk(vm, disk)
        del self._cluster.state.vms[vm.uuid]

    async def _replace_vm(self, args: dict[str, Any]) -> None:
        """v3's declarative PUT: disks that the body does not list are deleted."""
        vm, wanted = self._vm(args["vm"]["uuid"]), VmRecord.model_validate(args["vm"])
        known = {nic.mac_address for nic in vm.nics}
        self._check_networks([nic for nic in wanted.nics if nic.mac_address not in known])
        for disk in [disk for disk in vm.disks if disk.device_uuid not in args["keep"]]:
            await self.delete_disk(vm, disk)
        for wish in args["wishes"]:
            await self.make_disk(vm, DiskWish.model_validate(wish), hot=True)
        for device_uuid, size_bytes in args["sizes"].items():
            kept = vm.by_device(device_uuid)
            if kept is not None and size_bytes > kept.size_bytes:
                await self.grow_disk(vm, kept, size_bytes)
        _take_over(vm, wanted, args["members"])
        await self.set_power(vm, is_on=wanted.is_on)

    async def _change_vm(self, args: dict[str, Any]) -> None:
        """v2's PUT: only the members that were given."""
        vm = self._vm(args["vm"]["uuid"])
        _take_over(vm, VmRecord.model_validate(args["vm"]), args["members"])
        self._cluster.touch(vm)


def _take_over(vm: VmRecord, wanted: VmRecord, members: list[str]) -> None:
    for name in members:
        setattr(vm, name, getattr(wanted, name))


def _addressed(cluster: Cluster, vm: VmRecord, address: dict[str, Any]) -> DiskRecord | None:
    """The disk of a VM that a v2 address means."""
    if address.get("vmdisk_uuid"):
        return vm.by_vmdisk(address["vmdisk_uuid"].lower())
    if address.get("ndfs_filepath"):
        path = address["ndfs_filepath"]
        return next((d for d in vm.disks if d.vmdisk_uuid and cluster.live_path(d) == path), None)
    if address.get("volume_group_uuid"):
        return next((d for d in vm.disks if d.volume_group_uuid == address["volume_group_uuid"]), None)
    return vm.slot(address.get("device_bus", "SCSI").upper(), address.get("device_index", -1))
