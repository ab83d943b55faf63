"""Prism v2 JSON ↔ our values: disks with both UUIDs, containers, attach, detach, power, boot.

Enum case differs between request and answer: compared in lower case, written in upper.
"""

from __future__ import annotations

from typing import Any

from mover.hypervisor.nutanix.reading import Json, flag, items, members, number, text, uuid, word
from mover.model.machine import CloneSource, Disk, DiskKind, EmptyDisk, Slot, StorageContainer

WITH_DISKS = {"include_vm_disk_config": "true"}
_POWER_WORDS = {"POWERINGON": "powering on", "POWERINGOFF": "powering off", "SHUTTINGDOWN": "shutting down"}
WITH_ALL = {"include_vm_disk_config": "true", "include_vm_nic_config": "true"}


def read_disks(vm: Json) -> tuple[Disk, ...]:
    """``vm_disk_info`` → disks in slot order. Both UUIDs, and what each was cloned from."""
    return tuple(sorted((read_disk(entry) for entry in items(vm, "vm_disk_info")), key=lambda disk: disk.slot))


def read_disk(entry: Json) -> Disk:
    """One entry of ``vm_disk_info``."""
    address = members(entry, "disk_address")
    group = uuid(address, "volume_group_uuid")
    return Disk(
        device_uuid=uuid(address, "device_uuid") or group,
        slot=Slot(text(address, "device_bus").lower(), number(address, "device_index")),
        kind=_kind(entry, group),
        size_bytes=number(entry, "size"),
        vmdisk_uuid=uuid(address, "vmdisk_uuid") or None,
        container_uuid=uuid(entry, "storage_container_uuid") or None,
        source_path=text(entry, "source_disk_address", "ndfs_filepath") or None,
        source_vmdisk_uuid=uuid(entry, "source_disk_address", "vmdisk_uuid") or None,
        volume_group_uuid=group or None,
    )


def _kind(entry: Json, group: str) -> DiskKind:
    if group:
        return DiskKind.VOLUME_GROUP
    is_cdrom = flag(entry, "is_cdrom") or flag(entry, "disk_address", "is_cdrom")
    return DiskKind.CDROM if is_cdrom else DiskKind.DISK


def read_is_on(vm: Json) -> bool:
    """False only for a VM that is off for certain: one that is still going off may write to its disks.

    Where the state is not told, its host tells.
    """
    state = _power_state(vm)
    return state != "OFF" if state else bool(uuid(vm, "host_uuid"))


def read_settled_power(vm: Json) -> bool | None:
    """True: on; False: off; None: neither yet, or in a word that is not known."""
    state = _power_state(vm)
    return {"ON": True, "MIGRATING": True, "OFF": False}.get(state) if state else read_is_on(vm)


def read_power(vm: Json) -> str:
    """The state in words for people: on, off, powering off, paused, … or unknown."""
    state = _power_state(vm)
    return _POWER_WORDS.get(state, state.lower()) or ("on" if read_is_on(vm) else "unknown")


def _power_state(vm: Json) -> str:
    """Without underscores: builds write powering_off and kPoweringOff."""
    return word(vm, "power_state").replace("_", "")


def read_container(entity: Json) -> StorageContainer:
    """One of ``storage_containers``; its numbers come as strings, and -1 or none at all means not known."""
    stats = members(entity, "usage_stats")
    capacity = max(number(stats, "storage.user_capacity_bytes"), 0) or number(entity, "max_capacity")
    free = number(stats, "storage.user_free_bytes") if stats.get("storage.user_free_bytes") is not None else -1
    if free < 0:
        # Not known must not read as full: then only the writing itself can tell.
        free = capacity - max(number(stats, "storage.user_usage_bytes"), 0)
    return StorageContainer(
        uuid=uuid(entity, "storage_container_uuid"),
        name=text(entity, "name"),
        cluster_uuid=uuid(entity, "cluster_uuid"),
        capacity_bytes=capacity,
        free_bytes=max(free, 0),
    )


def is_usable_container(entity: Json) -> bool:
    """Not Prism's own and not about to go."""
    return not flag(entity, "is_nutanix_managed") and not flag(entity, "marked_for_removal")


def read_refusal(vm: Json) -> str | None:
    """Why disaster-recovery work flows must leave this VM alone (service VMs)."""
    return text(vm, "cbr_not_capable_reason").strip() or None


def attach_body(
    slot: Slot, source: CloneSource | EmptyDisk, *, container_uuid: str | None, with_bus: bool = False
) -> dict[str, Any]:
    """Body of ``disks/attach``: one disk, its slot, exactly one source.

    container_uuid: written beside a clone's source where given; an empty disk brings its own.
    with_bus: the bus also stands inside the address of a clone's source.
    """
    disk: dict[str, Any] = {"disk_address": {"device_bus": slot.bus.upper(), "device_index": slot.index}}
    if isinstance(source, EmptyDisk):
        disk["vm_disk_create"] = {"size": source.size_bytes, "storage_container_uuid": source.container_uuid}
    else:
        disk["vm_disk_clone"] = _clone(source, container_uuid, slot.bus.upper() if with_bus else None)
    return {"vm_disks": [disk]}


def _clone(source: CloneSource, container_uuid: str | None, bus: str | None) -> dict[str, Any]:
    if bool(source.path) == bool(source.vmdisk_uuid):
        raise ValueError("a clone has one source: a path or a vmdisk UUID")
    # Never both members of the address: an attach may set only one of them.
    address = {"ndfs_filepath": source.path} if source.path else {"vmdisk_uuid": source.vmdisk_uuid}
    if bus:
        address = {"device_bus": bus, **address}
    clone: dict[str, Any] = {"disk_address": address}
    if container_uuid:
        clone["storage_container_uuid"] = container_uuid
    return clone


def detach_body(vm_uuid: str, vmdisk_uuid: str) -> dict[str, Any]:
    """Body of ``disks/detach``: by vmdisk UUID, never by slot."""
    return {"uuid": vm_uuid, "vm_disks": [{"disk_address": {"vmdisk_uuid": vmdisk_uuid}}]}


def power_body(*, on: bool) -> dict[str, Any]:
    return {"transition": "ON" if on else "OFF"}


def boot_body(slot: Slot) -> dict[str, Any]:
    """Body of ``PUT vms/{uuid}``: the boot disk alone; v2 leaves unmentioned members as they are."""
    address = {"device_bus": slot.bus.upper(), "device_index": slot.index}
    return {"boot": {"boot_device_type": "DISK", "disk_address": address}}
