"""A lab's first start: the cluster that its options describe, with addresses and UUIDs of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mover.clock import Clock, secret_bytes
from mover.lab.disks import DiskBank
from mover.lab.intents import new_mac
from mover.lab.options import AUTO, DiskSpec, LabOptions, VmSpec
from mover.lab.state import (
    ContainerRecord,
    DiskRecord,
    HostRecord,
    NetworkRecord,
    NicRecord,
    State,
    VmRecord,
    VolumeGroupRecord,
)

ISO_BYTES = 382976

FILLERS = 2
"""Disks filled side by side: half of the work is done by mkfs."""

Fill = Callable[[Path, DiskSpec, int, Path], list[str]]
"""Writes the first content of a disk's file: path, what is wished, seed, scratch folder. Gives notes in words."""


def some_address() -> str:
    """A loopback address that nobody else is likely to use."""
    second, third, fourth = secret_bytes(3)
    return f"127.{1 + second % 254}.{third}.{2 + fourth % 250}"


class Founder:
    """Builds the first state, and makes the files of its disks."""

    def __init__(self, options: LabOptions, clock: Clock, bank: DiskBank, fill: Fill, scratch: Path) -> None:
        self._options = options
        self._clock = clock
        self._bank = bank
        self._fill = fill
        self._scratch = scratch
        self._unfilled: list[tuple[Path, DiskSpec, int]] = []
        self._seed = options.seed * 1000

    def found(self) -> State:
        """Blocking: writes disks."""
        state = self._empty()
        self._add_vm(state, VmSpec(name="NTNX-CVM-1", disks=(), is_controller=True))
        proxy = VmSpec(name=self._options.proxy_name, disks=self._options.proxy_disks)
        state.proxy_uuid = self._add_vm(state, proxy).uuid
        for spec in self._options.vms:
            self._add_vm(state, spec)
        with ThreadPoolExecutor(FILLERS, "lab-fill") as pool:
            filled = [pool.submit(self._fill, *disk, self._scratch) for disk in self._unfilled]
            notes = {note for done in filled for note in done.result()}
        state.notes = sorted(notes)
        return state

    def _empty(self) -> State:
        options, new = self._options, self._clock.new_uuid
        central = some_address() if options.central_address == AUTO else options.central_address
        state = State(
            address=some_address() if options.address == AUTO else options.address,
            central_address=central,
            cluster_uuid=f"0006{new()[4:]}",
            cluster_name=options.cluster_name,
            incarnation=int(self._clock.now() * 1_000_000),
            central_uuid=new(),
            admin_uuid=new(),
            proxy_uuid="",
        )
        for number, name in enumerate([*options.containers, "NutanixManagementShare"], start=1):
            record = ContainerRecord(
                uuid=new(),
                name=name,
                number=number,
                capacity_bytes=options.container_capacity_bytes,
                free_bytes=options.container_free_bytes,
            )
            state.containers[record.uuid] = record
        for number, name in enumerate(options.networks, start=1):
            network = NetworkRecord(uuid=new(), name=name, vlan_id=10 * number)
            state.networks[network.uuid] = network
        for number in (1, 2):
            host = HostRecord(uuid=new(), name=f"ahv-{number}", address=f"10.0.0.{10 + number}")
            state.hosts[host.uuid] = host
        return state

    def _add_vm(self, state: State, spec: VmSpec) -> VmRecord:
        vm = VmRecord(
            uuid=spec.uuid or self._clock.new_uuid(),
            name=spec.name,
            description=spec.description,
            memory_mib=spec.memory_mib,
            sockets=spec.sockets,
            is_on=spec.is_on,
            host_uuid=next(iter(state.hosts)) if spec.is_on else None,
            boot_type=spec.boot_type,
            machine_type="Q35" if spec.boot_type == "SECURE_BOOT" else spec.machine_type,
            has_vtpm=spec.has_vtpm,
            categories=spec.categories,
            guest_tools=spec.guest_tools,
            protection_type=spec.protection_type,
            cbr_not_capable_reason=spec.cbr_not_capable_reason,
            is_controller=spec.is_controller,
            is_elsewhere=spec.is_elsewhere,
            nvram_uuid=self._clock.new_uuid() if spec.boot_type != "LEGACY" else None,
            created_at=self._clock.now(),
            updated_at=self._clock.now(),
        )
        state.vms[vm.uuid] = vm
        for nic in spec.nics:
            network = next(one for one in state.networks.values() if one.name == nic.network)
            vm.nics.append(
                NicRecord(
                    uuid=self._clock.new_uuid(),
                    mac_address=(nic.mac_address or new_mac()).lower(),
                    network_uuid=network.uuid,
                    is_connected=nic.is_connected,
                    ip_address=nic.ip_address,
                )
            )
        for disk in spec.disks:
            self._add_disk(state, vm, disk)
        if vm.disks and vm.boot_type == "LEGACY":
            vm.boot_slot = (vm.disks[0].bus, vm.disks[0].index)
        return vm

    def _add_disk(self, state: State, vm: VmRecord, spec: DiskSpec) -> DiskRecord:
        """A disk, in the next free slot unless told; its first content comes at the end."""
        container = state.container_by_name(spec.container)
        bus = "IDE" if spec.kind == "CDROM" and spec.bus == "SCSI" and vm.machine_type == "PC" else spec.bus
        bus = "SATA" if spec.kind == "CDROM" and bus != "IDE" else bus
        taken = {one.index for one in vm.disks if one.bus == bus}
        size = 0 if spec.is_empty or spec.kind == "VOLUME_GROUP" else spec.size_bytes
        size = min(size, ISO_BYTES) if spec.kind == "CDROM" else size
        disk = DiskRecord(
            device_uuid=self._clock.new_uuid(),
            kind=spec.kind,
            bus=bus,
            index=next(i for i in range(257) if i not in taken) if spec.index is None else spec.index,
            size_bytes=size,
            vmdisk_uuid=self._clock.new_uuid() if size else None,
            container_uuid=container.uuid if size else None,
        )
        if spec.kind == "VOLUME_GROUP":
            group = VolumeGroupRecord(
                uuid=self._clock.new_uuid(),
                name=f"{vm.name}-vg",
                vmdisk_uuid=self._clock.new_uuid(),
                size_bytes=spec.size_bytes,
                container_uuid=container.uuid,
                vm_uuids=[vm.uuid],
            )
            state.volume_groups[group.uuid] = group
            disk.volume_group_uuid = group.uuid
        if disk.vmdisk_uuid:
            path = self._bank.create(disk.vmdisk_uuid, size)
            self._seed += 1
            if spec.kind == "DISK":
                disk.content = spec.content
                self._unfilled.append((path, spec, self._seed))
        vm.disks.append(disk)
        return disk
