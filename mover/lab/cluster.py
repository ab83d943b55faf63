"""The cluster itself: what all APIs show, and how its disks become files and devices.

Everything here runs on the lab's event loop; work on files and devices goes through one
small thread pool.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mover.clock import Clock
from mover.errors import LabError
from mover.lab.answers import Refusal, TaskFailure, missing
from mover.lab.disks import DiskBank
from mover.lab.faults import Faults
from mover.lab.hotplug import Hotplug, PlugFaults
from mover.lab.operations import ELEMENT
from mover.lab.options import LabOptions
from mover.lab.state import DiskRecord, FrozenFile, SnapshotRecord, State, VmRecord
from mover.lab.tasks import TaskBook

T = TypeVar("T")

ATTACH = "v2.vms.disks.attach"
SLOTS = {"SATA": 6, "IDE": 4, "PCI": 7, "NVME": 8, "SPAPR": 64}


class Cluster:
    """State, disks, devices and tasks of one lab, with the look-ups that every API needs."""

    def __init__(
        self,
        state: State,
        options: LabOptions,
        *,
        clock: Clock,
        faults: Faults,
        tasks: TaskBook,
        bank: DiskBank,
        hotplug: Hotplug,
        save: Callable[[], None],
    ) -> None:
        self.state = state
        self.options = options
        self.clock = clock
        self.faults = faults
        self.tasks = tasks
        self.bank = bank
        self.hotplug = hotplug
        self.save = save
        self._pool = ThreadPoolExecutor(4, "lab-disks")
        self._past: dict[str, tuple[float, VmRecord]] = {}

    async def blocking(self, work: Callable[..., T], *args: Any, **named: Any) -> T:
        """Run disk work in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(work, *args, **named))

    def close(self) -> None:
        self._pool.shutdown()

    def now(self) -> float:
        return self.tasks.now()

    # --- looking --------------------------------------------------------------------------

    def vm(self, uuid: str, side: str = ELEMENT) -> VmRecord:
        """Raises Refusal 404; CVMs are not there for anybody."""
        found = self.state.vms.get(uuid.lower())
        if found is None or found.is_controller or (found.is_elsewhere and side == ELEMENT):
            raise missing("VM", uuid)
        return found

    def vms(self, side: str = ELEMENT) -> list[VmRecord]:
        """What one side lists: no CVMs, and another cluster's VMs on Central only."""
        known = (vm for vm in self.state.vms.values() if not vm.is_controller)
        return [vm for vm in known if side != ELEMENT or not vm.is_elsewhere]

    def remember(self, vm: VmRecord) -> None:
        """Before a change by v2: what v3, which lags, goes on showing for a while."""
        if self.options.v3_lag_s and self._past.get(vm.uuid, (0.0,))[0] <= self.now():
            self._past[vm.uuid] = (self.now() + self.options.v3_lag_s, vm.model_copy(deep=True))

    def as_v3_shows(self, vm: VmRecord) -> VmRecord:
        until, past = self._past.get(vm.uuid, (0.0, vm))
        return past if until > self.now() else vm

    def vms_by_v3(self, side: str) -> list[VmRecord]:
        """As ``vms``, some of them as they were, and some that are gone."""
        gone = [vm for until, vm in self._past.values() if until > self.now() and vm.uuid not in self.state.vms]
        return [*(self.as_v3_shows(vm) for vm in self.vms(side)), *gone]

    def is_proxy(self, vm: VmRecord) -> bool:
        return vm.uuid == self.state.proxy_uuid

    def find_vmdisk(self, vmdisk_uuid: str) -> tuple[VmRecord, DiskRecord] | None:
        for vm in self.state.vms.values():
            if disk := vm.by_vmdisk(vmdisk_uuid):
                return vm, disk
        return None

    def find_device(self, device_uuid: str) -> tuple[VmRecord, DiskRecord] | None:
        for vm in self.state.vms.values():
            if disk := vm.by_device(device_uuid):
                return vm, disk
        return None

    def find_frozen(self, path: str) -> tuple[SnapshotRecord, FrozenFile] | None:
        """A file inside a v3 snapshot that exists now."""
        for snapshot in self.state.snapshots.values():
            for file in snapshot.files:
                if file.snapshot_path == path and self.state.live_snapshot(snapshot.uuid, self.now()):
                    return snapshot, file
        return None

    def find_old_frozen(self, *, path: str = "", group_uuid: str = "", vmdisk_uuid: str = "") -> FrozenFile | None:
        """A file inside a v2 snapshot, by path or by group and vmdisk."""
        for snapshot in self.state.old_snapshots.values():
            for file in snapshot.files:
                if file.snapshot_path == path or (snapshot.group_uuid, file.vmdisk_uuid) == (group_uuid, vmdisk_uuid):
                    return file
        return None

    def container_name(self, uuid: str | None) -> str:
        found = self.state.containers.get(uuid or "")
        return found.name if found else "default"

    def container_of_path(self, path: str) -> str | None:
        name = path.split("/")[1] if path.startswith("/") else ""
        return next((c.uuid for c in self.state.containers.values() if c.name == name), None)

    def live_path(self, disk: DiskRecord) -> str:
        """Where a live disk stands in the distributed file system."""
        return f"/{self.container_name(disk.container_uuid)}/.acropolis/vmdisk/{disk.vmdisk_uuid}"

    def frozen_file(self, file: FrozenFile) -> Path:
        """Raises TaskFailure for a file that the lab keeps no bytes of."""
        if file.frozen is None:
            raise TaskFailure(f"kNotSupported: {file.snapshot_path} is no virtual disk")
        return self.bank.frozen_path(file.vmdisk_uuid, file.frozen)

    # --- changing -------------------------------------------------------------------------

    def touch(self, vm: VmRecord) -> None:
        """Count a change, for those who bring a version."""
        vm.spec_version += 1
        vm.logical_timestamp += 1
        vm.updated_at = self.now()

    def check_timestamp(self, vm: VmRecord, given: object) -> None:
        """v2's optional optimistic lock. Raises Refusal 409."""
        if given is not None and str(given) != str(vm.logical_timestamp):
            raise Refusal(409, "CONCURRENT_REQUESTS_NOT_ALLOWED", "logical timestamp mismatch")

    def free_index(self, vm: VmRecord, bus: str) -> int:
        """Raises TaskFailure when the bus is full."""
        limit = self.slots(bus)
        taken = {disk.index for disk in vm.disks if disk.bus == bus}
        free = next((index for index in range(limit) if index not in taken), None)
        if free is None:
            raise TaskFailure(f"kResourceExhausted: all {limit} {bus.lower()} slots of VM {vm.name} are in use")
        return free

    def slots(self, bus: str) -> int:
        return self.options.scsi_slots if bus == "SCSI" else SLOTS.get(bus, 0)

    async def plug(self, vm: VmRecord, disk: DiskRecord) -> None:
        """Give a disk of the Proxy VM to its kernel, if that runs; with the faults armed for it."""
        if not self.is_proxy(vm) or not vm.is_on or disk.vmdisk_uuid is None or disk.kind != "DISK":
            return
        bites = self.faults.take("device", ATTACH, self._plug_about(vm, disk))
        wishes = {name: value for args in bites.values() for name, value in args.items()}
        wishes.setdefault("spelling", self.options.serial_spelling)
        if self.options.sector_bytes:
            wishes.setdefault("sector_bytes", self.options.sector_bytes)
        await self.blocking(self.hotplug.unplug, disk.vmdisk_uuid)
        try:
            await self.blocking(
                self.hotplug.plug,
                self.bank.path(disk.vmdisk_uuid),
                vmdisk_uuid=disk.vmdisk_uuid,
                slot_index=disk.index,
                faults=PlugFaults.of(wishes),
            )
        except LabError as error:
            raise TaskFailure(f"kInternalError: {error.message}") from error

    def _plug_about(self, vm: VmRecord, disk: DiskRecord) -> set[str]:
        """What a fault of a device may be armed for: the new disk, or the disk that it is a clone of."""
        source = disk.source_vmdisk_uuid or (disk.source_path or "").rpartition("/")[2]
        about = {str(disk.vmdisk_uuid), disk.device_uuid, disk.label, disk.source_path or "", source, vm.name, vm.uuid}
        if found := self.find_vmdisk(source):
            about |= {found[0].name, found[0].uuid, found[1].label, found[1].device_uuid}
        return about

    async def unplug(self, vm: VmRecord, disk: DiskRecord) -> None:
        if self.is_proxy(vm) and disk.vmdisk_uuid is not None:
            await self.blocking(self.hotplug.unplug, disk.vmdisk_uuid)

    async def replug(self) -> None:
        """After a start: exactly the Proxy VM's disks are devices."""
        proxy = self.state.vms.get(self.state.proxy_uuid)
        here = proxy.disks if proxy and proxy.is_on else []
        disks = {disk.vmdisk_uuid: disk for disk in here if disk.vmdisk_uuid}
        plugged = self.hotplug.plugs()
        for vmdisk_uuid, plug in plugged.items():
            if vmdisk_uuid not in disks and plug.decoy_of is None:
                await self.blocking(self.hotplug.unplug, vmdisk_uuid)
        for vmdisk_uuid, disk in disks.items():
            # A kill in the midst of a detach may have left a disk without its file.
            if proxy and vmdisk_uuid not in plugged and self.bank.path(vmdisk_uuid).exists():
                await self.plug(proxy, disk)
