"""What a Prism shows: VMs read by v3 and v2 and held against each other, and all that is around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from mover import logs
from mover.errors import Conflict, NotFound, RightsMissing
from mover.hypervisor.nutanix import v2, v3
from mover.hypervisor.nutanix.endpoints import Endpoints
from mover.hypervisor.nutanix.paging import list_v2_by_offset, list_v2_by_page, list_v3
from mover.hypervisor.nutanix.reading import Json, number, text, uuid
from mover.hypervisor.nutanix.session import Session
from mover.model.machine import Disk, DiskKind, Inventory, Network, StorageContainer, Vm

log = logs.get(__name__)

# v3 shows what v2 has changed (an attach, a detach) some seconds later.
_READS = 6
_READS_IN_A_LIST = 2
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.0


@dataclass(frozen=True, slots=True)
class _ByV2:
    """What only v2 knows of a VM."""

    uuid: str
    disks: tuple[Disk, ...]
    is_on: bool
    power: str
    host_uuid: str | None
    refusal: str | None


async def read_inventory(at: Endpoints) -> Inventory:
    """Everything, paged to the end, without the VMs' specs. Only reads."""
    hosts = await list_v3(at.element, "host", v3.read_host)
    vms, notes = await _read_vms(at)
    return Inventory(
        clusters=at.clusters,
        hosts=tuple(sorted(hosts, key=lambda host: host.name)),
        containers=await read_containers(at.element),
        networks=await read_networks(at.element),
        vms=tuple(sorted(vms, key=lambda vm: (vm.name, vm.uuid))),
        notes=notes,
    )


async def read_containers(session: Session) -> tuple[StorageContainer, ...]:
    """Storage containers that disks may live in, by name."""
    found = await list_v2_by_page(session, "storage_containers/", _usable, key="storage_container_uuid")
    return tuple(sorted(filter(None, found), key=lambda container: container.name))


def _usable(entity: Json) -> StorageContainer | None:
    return v2.read_container(entity) if v2.is_usable_container(entity) else None


async def read_networks(session: Session) -> tuple[Network, ...]:
    return tuple(sorted(await list_v3(session, "subnet", v3.read_network), key=lambda network: network.name))


async def _read_vms(at: Endpoints) -> tuple[list[Vm], tuple[str, ...]]:
    v2_list = await list_v2_by_offset(at.element, "vms/", _by_v2, key="uuid", query=v2.WITH_ALL)
    by_v2 = {vm.uuid: vm for vm in v2_list}
    categories, note = await at.central.categories() if at.central else ({}, "")
    found = []
    for vm in await list_v3(at.element, "vm", _by_v3):
        other = by_v2.pop(vm.uuid, None)
        if other is not None and not differences(vm.disks, other.disks):
            found.append(_merged(vm, other, categories.get(vm.uuid)))
            continue
        try:
            found.append(replace(await read_vm(at, vm.uuid, reads=_READS_IN_A_LIST), spec={}))
        except NotFound:
            continue
        except Conflict as odd:
            # One VM that is being changed must not hide the others; whoever backs it up is told.
            log.warning("prism.views-differ", vm=vm.name, said=odd.message)
            found.append(vm if other is None else _merged(vm, other, categories.get(vm.uuid)))
    late, unlisted = await _read_unlisted(at, by_v2)
    return found + late, tuple(filter(None, (note, unlisted)))


async def _read_unlisted(at: Endpoints, vm_uuids: Collection[str]) -> tuple[list[Vm], str]:
    """VMs of v2's list that v3's lacks (it lags): read one by one. A VM must not miss its backup unseen."""
    found, hidden = [], []
    for vm_uuid in sorted(vm_uuids):
        try:
            found.append(replace(await read_vm(at, vm_uuid, reads=_READS_IN_A_LIST), spec={}))
        except (NotFound, Conflict, RightsMissing) as odd:
            log.warning("prism.vm-unlisted", vm_uuid=vm_uuid, said=odd.message)
            hidden.append(vm_uuid)
    return found, f"Prism's v3 does not show these VMs, which its v2 shows: {', '.join(hidden)}" if hidden else ""


async def read_vm(at: Endpoints, vm_uuid: str, *, reads: int = _READS) -> Vm:
    """One VM as it is now. Only reads. Raises NotFound, Conflict (its disks keep changing)."""
    entity, other = await _both_views(at.element, vm_uuid, reads)
    central, note = await at.central.vm(vm_uuid) if at.central else (None, "")
    return replace(join(entity, other, central), notes=(note,) if note else ())


async def read_disks(session: Session, vm_uuid: str) -> tuple[Disk, ...]:
    """The disks of one VM, by one call of v2. Only reads. Raises NotFound, Conflict."""
    disks = v2.read_disks(await session.get("v2", f"vms/{vm_uuid}", query=v2.WITH_DISKS))
    if disks:
        return disks
    # A v2 answer without disks never means that a VM has none: v3 must say so too.
    entity, other = await _both_views(session, vm_uuid, _READS)
    return join(entity, other, None).disks


async def _both_views(session: Session, vm_uuid: str, reads: int) -> tuple[Json, Json]:
    """v3's and v2's view of one VM, once they agree. Raises NotFound, Conflict."""
    problem = ""
    for attempt in range(reads):
        if attempt:
            await session.clock.sleep(min(_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S))
        entity = await session.get("v3", f"vms/{vm_uuid}")
        other = await session.get("v2", f"vms/{vm_uuid}", query=v2.WITH_ALL)
        problem = disagreement(entity, other)
        if not problem:
            return entity, other
    raise Conflict(
        f"VM {v3.name_of(entity)} is not shown alike by Prism's two interfaces: {problem}",
        remedy="Its disks are being changed, or migrated: try again when that has ended.",
        vm_uuid=vm_uuid,
    )


def disagreement(entity: Json, other: Json) -> str:
    """How v3 and v2 differ about the data disks of a VM; empty when they agree."""
    return differences(v3.read_disks(entity), v2.read_disks(other))


def differences(by_v3: Collection[Disk], by_v2: Collection[Disk]) -> str:
    """In words; empty when both know the same data disks of the same sizes, where v3 tells a size in bytes.

    A v2 answer without disks never means that a VM has none.
    """
    silent = {disk.device_uuid for disk in by_v3 if not disk.size_bytes}
    ours = {(disk.device_uuid, _size(disk, silent)) for disk in by_v2 if disk.kind is DiskKind.DISK}
    theirs = {(disk.device_uuid, _size(disk, silent)) for disk in by_v3 if disk.kind is DiskKind.DISK}
    return ", ".join(f"disk {device_uuid} of {size} bytes" for device_uuid, size in sorted(ours ^ theirs))


def _size(disk: Disk, silent: Collection[str]) -> int:
    return 0 if disk.device_uuid in silent else disk.size_bytes


def join(entity: Json, other: Json, central: Json | None) -> Vm:
    """v3's entity, v2's of the same VM, and Central's if there is one → Vm. ``spec`` keeps all of them whole."""
    spec: dict[str, Json] = {"v3": entity, "v2": other}
    if central is not None:
        spec["central"] = central
    categories = v3.read_categories(central) if central is not None else None
    return replace(_merged(_by_v3(entity), _by_v2(other), categories), spec=spec)


def _merged(vm: Vm, other: _ByV2, categories: Mapping[str, tuple[str, ...]] | None) -> Vm:
    """v2's disks, which know both UUIDs, and what only v3 shows beside them (volume groups)."""
    slots = {disk.slot for disk in other.disks}
    rest = tuple(disk for disk in vm.disks if disk.kind is not DiskKind.DISK and disk.slot not in slots)
    return replace(
        vm,
        uuid=vm.uuid or other.uuid,
        disks=tuple(sorted(other.disks + rest, key=lambda disk: disk.slot)),
        is_on=other.is_on,
        power=other.power,
        host_uuid=vm.host_uuid or other.host_uuid,
        refusal=other.refusal,
        categories=vm.categories if categories is None else categories,
    )


def _uuid_of(entity: Json) -> str:
    return uuid(entity, "metadata", "uuid")


def _by_v2(other: Json) -> _ByV2:
    return _ByV2(
        uuid=uuid(other, "uuid"),
        disks=v2.read_disks(other),
        is_on=v2.read_is_on(other),
        power=v2.read_power(other),
        host_uuid=uuid(other, "host_uuid") or None,
        refusal=v2.read_refusal(other),
    )


def _by_v3(entity: Json) -> Vm:
    """All that v3 knows; power and refusal are v2's to say, where it shows the VM."""
    actual = v3.resources(entity)
    host_uuid = uuid(actual, "host_reference", "uuid") or None
    power = {"power_state": text(actual, "power_state"), "host_uuid": host_uuid}
    return Vm(
        uuid=_uuid_of(entity),
        name=v3.name_of(entity),
        cluster_uuid=v3.cluster_uuid_of(entity),
        host_uuid=host_uuid,
        is_on=v2.read_is_on(power),
        power=v2.read_power(power),
        disks=v3.read_disks(entity),
        nics=v3.read_nics(entity),
        categories=v3.read_categories(entity),
        memory_bytes=number(actual, "memory_size_mib") * v3.MIB,
        vcpus=number(actual, "num_sockets") * max(1, number(actual, "num_vcpus_per_socket")),
        boot_type=v3.read_boot_type(entity),
        has_vtpm=v3.read_has_vtpm(entity),
        can_quiesce=v3.read_can_quiesce(entity),
        is_protected_elsewhere=v3.read_is_protected_elsewhere(entity),
    )
