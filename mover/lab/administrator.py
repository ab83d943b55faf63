"""What somebody else does to the cluster in the meantime: the actions, by name.

grow_disk vm slot size_bytes · replace_disk vm slot · remove_disk vm slot · migrate_disk vm slot container
add_disk vm size_bytes [slot] · steal_slot [index] (of the Proxy VM; else the one that the call asks for)
delete_vm vm · rename_vm vm name · power vm on · protect vm protection_type · guest_tools vm state
delete_snapshot [uuid] [vm] (else the oldest) · expire_snapshots [vm]
container_free name free_bytes · log_out · unlock
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mover.errors import UsageError
from mover.lab.answers import TaskFailure
from mover.lab.auth import Gate
from mover.lab.cluster import Cluster
from mover.lab.freezing import Freezer
from mover.lab.intents import new_disk
from mover.lab.orders import Orders
from mover.lab.state import DiskRecord, VmRecord

MIB = 1 << 20
Args = dict[str, Any]


class Administrator:
    """Acts at once, without tasks. Raises UsageError on an action or a thing that is not there."""

    def __init__(self, cluster: Cluster, orders: Orders, freezer: Freezer, gates: list[Gate]) -> None:
        self._cluster = cluster
        self._orders = orders
        self._freezer = freezer
        self._gates = gates
        self.actions: dict[str, Callable[[Args], Awaitable[None]]] = {
            "grow_disk": self._grow_disk,
            "replace_disk": self._replace_disk,
            "remove_disk": self._remove_disk,
            "migrate_disk": self._migrate_disk,
            "add_disk": self._add_disk,
            "steal_slot": self._steal_slot,
            "delete_vm": self._delete_vm,
            "rename_vm": self._rename_vm,
            "power": self._power,
            "protect": self._protect,
            "guest_tools": self._guest_tools,
            "delete_snapshot": self._delete_snapshot,
            "expire_snapshots": self._expire_snapshots,
            "container_free": self._container_free,
            "log_out": self._log_out,
            "unlock": self._unlock,
        }

    async def act(self, args: Args, body: Any = None) -> None:
        """args: ``action`` and its parameters. body: of the call in whose midst this happens."""
        action = self.actions.get(str(args.get("action")))
        if action is None:
            raise UsageError(
                f"There is no action {args.get('action')!r}", remedy=f"Use one of {', '.join(self.actions)}."
            )
        try:
            await action({**args, "body": body})
        except KeyError as error:
            raise UsageError(f"{args['action']}: {error.args[0]}", remedy="Name what the lab has.") from error
        except TaskFailure as failure:
            raise UsageError(f"{args['action']}: {failure.detail}", remedy="Name what can be done.") from failure
        self._cluster.save()

    def find_vm(self, args: Args) -> VmRecord:
        """The VM that ``vm`` names (or its UUID). Raises UsageError."""
        try:
            return self._vm(args)
        except KeyError as error:
            raise UsageError(str(error.args[0]), remedy="Name what the lab has.") from error

    def _vm(self, args: Args) -> VmRecord:
        wanted = args.get("vm", "")
        return self._cluster.state.vms.get(wanted) or self._cluster.state.vm_by_name(wanted)

    def _disk(self, args: Args) -> tuple[VmRecord, DiskRecord]:
        vm = self._vm(args)
        label = args.get("slot", "scsi.0")
        found = next((disk for disk in vm.disks if disk.label == label), None)
        if found is None:
            raise KeyError(f"VM {vm.name} has nothing at {label}")
        return vm, found

    async def _grow_disk(self, args: Args) -> None:
        vm, disk = self._disk(args)
        await self._orders.grow_disk(vm, disk, args.get("size_bytes", disk.size_bytes + 16 * MIB))

    async def _replace_disk(self, args: Args) -> None:
        """Another disk of the same size in the same slot, with other bytes."""
        vm, disk = self._disk(args)
        await self._orders.delete_disk(vm, disk)
        wish = new_disk(
            self._cluster.clock,
            bus=disk.bus,
            index=disk.index,
            size_bytes=disk.size_bytes,
            container_uuid=disk.container_uuid,
        )
        await self._orders.make_disk(vm, wish, hot=False)
        self._cluster.touch(vm)

    async def _remove_disk(self, args: Args) -> None:
        vm, disk = self._disk(args)
        await self._orders.delete_disk(vm, disk)
        self._cluster.touch(vm)

    async def _migrate_disk(self, args: Args) -> None:
        """Into another storage container: the same device with the same bytes, in another file."""
        cluster, (vm, disk) = self._cluster, self._disk(args)
        container = cluster.state.container_by_name(args["container"])
        former, fresh = str(disk.vmdisk_uuid), cluster.clock.new_uuid()
        await cluster.blocking(cluster.bank.clone, cluster.bank.path(former), fresh)
        await cluster.unplug(vm, disk)
        disk.vmdisk_uuid, disk.container_uuid = fresh, container.uuid
        await cluster.plug(vm, disk)
        await cluster.blocking(cluster.bank.drop, cluster.bank.path(former))
        cluster.touch(vm)

    async def _add_disk(self, args: Args) -> None:
        vm = self._vm(args)
        bus, _, index = args.get("slot", "scsi.").partition(".")
        wish = new_disk(
            self._cluster.clock,
            bus=bus.upper(),
            index=int(index) if index else None,
            size_bytes=args.get("size_bytes", 16 * MIB),
        )
        await self._orders.make_disk(vm, wish, hot=False)
        self._cluster.touch(vm)

    async def _steal_slot(self, args: Args) -> None:
        """A disk of the administrator's own in a slot of the Proxy VM."""
        index = args.get("index")
        if index is None:
            items = args["body"].get("vm_disks", []) if isinstance(args["body"], dict) else []
            index = items[0].get("disk_address", {}).get("device_index") if items else None
        proxy = self._cluster.state.vms[self._cluster.state.proxy_uuid]
        wish = new_disk(self._cluster.clock, bus="SCSI", index=index, size_bytes=args.get("size_bytes", 16 * MIB))
        await self._orders.make_disk(proxy, wish, hot=False)
        self._cluster.touch(proxy)

    async def _delete_vm(self, args: Args) -> None:
        await self._orders.effects["delete_vm"]({"vm": self._vm(args).uuid})

    async def _rename_vm(self, args: Args) -> None:
        vm = self._vm(args)
        vm.name = args["name"]
        self._cluster.touch(vm)

    async def _power(self, args: Args) -> None:
        await self._orders.set_power(self._vm(args), is_on=bool(args["on"]))

    async def _protect(self, args: Args) -> None:
        self._vm(args).protection_type = args["protection_type"]

    async def _guest_tools(self, args: Args) -> None:
        self._vm(args).guest_tools = args["state"]

    async def _delete_snapshot(self, args: Args) -> None:
        known = list(self._cluster.state.snapshots.values())
        if "vm" in args:
            known = [one for one in known if one.vm_uuid == self._vm(args).uuid]
        if "uuid" in args:
            known = [one for one in known if one.uuid == args["uuid"]]
        if not known:
            raise KeyError("no such snapshot")
        await self._freezer.forget(known[0])

    async def _expire_snapshots(self, args: Args) -> None:
        for snapshot in list(self._cluster.state.snapshots.values()):
            if "vm" not in args or snapshot.vm_uuid == self._vm(args).uuid:
                snapshot.expires_ms = 1
        await self._freezer.expire()

    async def _container_free(self, args: Args) -> None:
        self._cluster.state.container_by_name(args["name"]).free_bytes = int(args["free_bytes"])

    async def _log_out(self, _args: Args) -> None:
        for gate in self._gates:
            gate.forget_sessions()

    async def _unlock(self, _args: Args) -> None:
        self._cluster.state.locks.clear()
