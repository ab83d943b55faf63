"""What a Prism shows: VMs read by v3 and v2 and held against each other, and all that is around them."""

from __future__ import annotations

from collections.abc import Mapping

from mover.errors import Conflict, NotFound
from mover.hypervisor.nutanix import v2, v3
from mover.hypervisor.nutanix.endpoints import Endpoints
from mover.hypervisor.nutanix.paging import list_v2_by_offset, list_v2_by_page, list_v3
from mover.hypervisor.nutanix.reading import Json, number, uuid
from mover.hypervisor.nutanix.session import Session
from mover.model.machine import Disk, DiskKind, Inventory, Network, StorageContainer, Vm

_READS = 4
_PAUSE_S = 0.5


async def read_inventory(at: Endpoints) -> Inventory:
    """Everything, paged to the end. Only reads."""
    hosts = [v3.read_host(entity) for entity in await list_v3(at.element, "host")]
    return Inventory(
        clusters=at.clusters,
        hosts=tuple(sorted(hosts, key=lambda host: host.name)),
        containers=await read_containers(at.element),
        networks=await read_networks(at.element),
        vms=tuple(sorted(await _read_vms(at), key=lambda vm: (vm.name, vm.uuid))),
    )


async def read_containers(session: Session) -> tuple[StorageContainer, ...]:
    """Storage containers that disks may live in, by name."""
    entities = await list_v2_by_page(session, "storage_containers/", key="storage_container_uuid")
    found = [v2.read_container(entity) for entity in entities if v2.is_usable_container(entity)]
    return tuple(sorted(found, key=lambda container: container.name))


async def read_networks(session: Session) -> tuple[Network, ...]:
    found = [v3.read_network(entity) for entity in await list_v3(session, "subnet")]
    return tuple(sorted(found, key=lambda network: network.name))


async def _read_vms(at: Endpoints) -> list[Vm]:
    by_v3 = {uuid(entity, "metadata", "uuid"): entity for entity in await list_v3(at.element, "vm")}
    v2_entities = await list_v2_by_offset(at.element, "vms/", key="uuid", query=v2.WITH_ALL)
    by_v2 = {uuid(entity, "uuid"): entity for entity in v2_entities}
    central = {}
    if at.central is not None:
        central = {uuid(entity, "metadata", "uuid"): entity for entity in await list_v3(at.central, "vm")}
    found = []
    for vm_uuid, entity in by_v3.items():
        other = by_v2.get(vm_uuid)
        if other is not None and not disagreement(entity, other):
            found.append(join(entity, other, central.get(vm_uuid)))
            continue
        try:
            found.append(await read_vm(at, vm_uuid))
        except NotFound:
            continue
    return found


async def read_vm(at: Endpoints, vm_uuid: str) -> Vm:
    """One VM as it is now. Only reads. Raises NotFound, Conflict (its disks keep changing)."""
    problem = ""
    for attempt in range(_READS):
        entity = await at.element.get("v3", f"vms/{vm_uuid}")
        other = await at.element.get("v2", f"vms/{vm_uuid}", query=v2.WITH_ALL)
        problem = disagreement(entity, other)
        if not problem:
            return join(entity, other, await _central_view(at, vm_uuid))
        await at.element.clock.sleep(_PAUSE_S * (attempt + 1))
    raise Conflict(
        f"VM {v3.name_of(entity)} is not shown alike by Prism's two interfaces: {problem}",
        remedy="Its disks are being changed, or migrated: try again when that has ended.",
        vm_uuid=vm_uuid,
    )


async def _central_view(at: Endpoints, vm_uuid: str) -> Json | None:
    """What Central knows; it lags, so a new VM may be unknown there."""
    if at.central is None:
        return None
    try:
        found = await at.central.get("v3", f"vms/{vm_uuid}")
    except NotFound:
        return None
    return found if isinstance(found, Mapping) else None


def disagreement(entity: Json, other: Json) -> str:
    """How v3 and v2 differ about the data disks; empty when they agree.

    A v2 answer without disks never means that a VM has none.
    """
    ours = {disk.device_uuid: disk.size_bytes for disk in v2.read_disks(other) if disk.kind is DiskKind.DISK}
    theirs = {disk.device_uuid: disk.size_bytes for disk in v3.read_disks(entity) if disk.kind is DiskKind.DISK}
    if ours == theirs:
        return ""
    differing = sorted(set(ours.items()) ^ set(theirs.items()))
    return ", ".join(f"disk {device_uuid} of {size} bytes" for device_uuid, size in differing)


def join(entity: Json, other: Json, central: Json | None) -> Vm:
    """v3's entity, v2's of the same VM, and Central's if there is one → Vm. ``spec`` keeps all of them whole."""
    actual = v3.resources(entity)
    spec: dict[str, Json] = {"v3": entity, "v2": other}
    if central is not None:
        spec["central"] = central
    return Vm(
        uuid=uuid(entity, "metadata", "uuid") or uuid(other, "uuid"),
        name=v3.name_of(entity),
        cluster_uuid=v3.cluster_uuid_of(entity),
        host_uuid=uuid(actual, "host_reference", "uuid") or uuid(other, "host_uuid") or None,
        is_on=v2.read_is_on(other),
        disks=_disks(entity, other),
        nics=v3.read_nics(entity),
        categories=v3.read_categories(central if central is not None else entity),
        memory_bytes=number(actual, "memory_size_mib") * v3.MIB,
        vcpus=number(actual, "num_sockets") * max(1, number(actual, "num_vcpus_per_socket")),
        boot_type=v3.read_boot_type(entity),
        has_vtpm=v3.read_has_vtpm(entity),
        can_quiesce=v3.read_can_quiesce(entity),
        is_protected_elsewhere=v3.read_is_protected_elsewhere(entity),
        refusal=v2.read_refusal(other),
        spec=spec,
    )


def _disks(entity: Json, other: Json) -> tuple[Disk, ...]:
    """v2's disks, which know both UUIDs, and what only v3 shows of the rest (volume groups)."""
    known = v2.read_disks(other)
    slots = {disk.slot for disk in known}
    rest = tuple(disk for disk in v3.read_disks(entity) if disk.kind is not DiskKind.DISK and disk.slot not in slots)
    return tuple(sorted(known + rest, key=lambda disk: disk.slot))
