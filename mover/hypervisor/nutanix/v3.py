"""Prism v3 JSON ↔ our values: clusters, hosts, networks, NICs, VM facts, snapshots."""

from __future__ import annotations

from typing import Any

from mover.clock import from_iso
from mover.hypervisor.nutanix.answers import message_of
from mover.hypervisor.nutanix.reading import Json, dig, flag, items, members, number, strings, text, uuid, word
from mover.model.machine import (
    Cluster,
    Consistency,
    Disk,
    DiskKind,
    Host,
    Network,
    Nic,
    Slot,
    Snapshot,
    SnapshotFile,
    SnapshotState,
)

API_VERSION = "3.1"
MIB = 1 << 20
_CENTRAL = "PRISM_CENTRAL"
_SNAPSHOT_TYPES = {Consistency.CRASH: "CRASH_CONSISTENT", Consistency.APPLICATION: "APPLICATION_CONSISTENT"}
_BOOT_TYPES = {"UEFI": "uefi", "SECURE_BOOT": "secure_boot"}
_STATES = {"COMPLETE": SnapshotState.COMPLETE, "ERROR": SnapshotState.ERROR, "FAILED": SnapshotState.ERROR}
_IDENTIFIER_MINUTES = 60 * 24 * 60
"""Two months: a key must outlive the longest time that a job can lie interrupted."""


# --- reading ------------------------------------------------------------------------


def read_cluster(entity: Json) -> Cluster:
    """One of ``clusters``."""
    config = members(entity, "status", "resources", "config")
    version = text(config, "software_map", "NOS", "version") or text(config, "build", "version")
    return Cluster(
        uuid=uuid(entity, "metadata", "uuid"),
        name=text(entity, "status", "name") or text(entity, "spec", "name"),
        version=version,
        address=text(entity, "status", "resources", "network", "external_ip") or None,
    )


def is_central(entity: Json) -> bool:
    """This entry of ``clusters`` is a Central itself."""
    return _CENTRAL in strings(entity, "status", "resources", "config", "service_list")


def read_host(entity: Json) -> Host:
    """One of ``hosts``."""
    return Host(
        uuid=uuid(entity, "metadata", "uuid"),
        name=text(entity, "status", "name"),
        cluster_uuid=uuid(entity, "status", "cluster_reference", "uuid"),
        address=text(entity, "status", "resources", "hypervisor", "ip") or None,
    )


def read_network(entity: Json) -> Network:
    """One of ``subnets``."""
    vlan = dig(entity, "status", "resources", "vlan_id")
    return Network(
        uuid=uuid(entity, "metadata", "uuid"),
        name=text(entity, "status", "name"),
        cluster_uuid=uuid(entity, "status", "cluster_reference", "uuid"),
        vlan_id=vlan if isinstance(vlan, int) else None,
    )


def resources(vm: Json) -> Json:
    """The actual state; the desired one where a build answers without a status."""
    return members(vm, "status", "resources") or members(vm, "spec", "resources")


def name_of(vm: Json) -> str:
    return text(vm, "status", "name") or text(vm, "spec", "name")


def cluster_uuid_of(vm: Json) -> str:
    return uuid(vm, "status", "cluster_reference", "uuid") or uuid(vm, "spec", "cluster_reference", "uuid")


def read_nics(vm: Json) -> tuple[Nic, ...]:
    return tuple(
        Nic(
            mac_address=text(nic, "mac_address").lower(),
            network_uuid=uuid(nic, "subnet_reference", "uuid"),
            is_connected=dig(nic, "is_connected") is not False,
            ip_addresses=tuple(text(end, "ip") for end in items(nic, "ip_endpoint_list") if text(end, "ip")),
        )
        for nic in items(resources(vm), "nic_list")
    )


def read_disks(vm: Json) -> tuple[Disk, ...]:
    """v3's view: no vmdisk UUID, no source; used to check v2's."""
    return tuple(_disk(entry) for entry in items(resources(vm), "disk_list"))


def _disk(entry: Json) -> Disk:
    properties = members(entry, "device_properties")
    return Disk(
        device_uuid=uuid(entry, "uuid"),
        slot=Slot(
            text(properties, "disk_address", "adapter_type").lower(), number(properties, "disk_address", "device_index")
        ),
        kind={"CDROM": DiskKind.CDROM, "VOLUME_GROUP": DiskKind.VOLUME_GROUP}.get(
            text(properties, "device_type").upper(), DiskKind.DISK
        ),
        size_bytes=number(entry, "disk_size_bytes"),
        container_uuid=uuid(entry, "storage_config", "storage_container_reference", "uuid") or None,
        volume_group_uuid=uuid(entry, "volume_group_reference", "uuid") or None,
    )


def read_categories(vm: Json) -> dict[str, tuple[str, ...]]:
    """The mapping; older builds know one value per key only."""
    mapping = members(vm, "metadata", "categories_mapping")
    if mapping:
        return {key: strings(mapping, key) for key in sorted(mapping)}
    single = members(vm, "metadata", "categories")
    return {key: strings(single, key) for key in sorted(single)}


def read_boot_type(vm: Json) -> str:
    """legacy | uefi | secure_boot"""
    return _BOOT_TYPES.get(text(resources(vm), "boot_config", "boot_type").upper(), "legacy")


def read_has_vtpm(vm: Json) -> bool:
    return flag(resources(vm), "vtpm_config", "vtpm_enabled")


def read_can_quiesce(vm: Json) -> bool:
    """The guest tools are on, reachable and able."""
    tools = members(resources(vm), "guest_tools", "nutanix_guest_tools")
    is_able = flag(tools, "vss_snapshot_capable") or "VSS_SNAPSHOT" in strings(tools, "enabled_capability_list")
    return text(tools, "state").upper() == "ENABLED" and flag(tools, "is_reachable") and is_able


def read_is_protected_elsewhere(vm: Json) -> bool:
    return text(resources(vm), "protection_type").upper() not in ("", "UNPROTECTED")


def read_snapshot(entity: Json) -> Snapshot:
    """A ``vm_snapshot``: what was made, not what was asked."""
    status = members(entity, "status")
    expires_ms = number(status, "expiration_time_msecs") or number(entity, "spec", "expiration_time_msecs")
    is_quiesced = word(status, "snapshot_type") == _SNAPSHOT_TYPES[Consistency.APPLICATION]
    return Snapshot(
        uuid=uuid(entity, "metadata", "uuid"),
        name=text(status, "name") or text(entity, "spec", "name"),
        vm_uuid=uuid(status, "resources", "entity_uuid") or uuid(entity, "spec", "resources", "entity_uuid"),
        state=_STATES.get(word(status, "state"), SnapshotState.PENDING),
        consistency=Consistency.APPLICATION if is_quiesced else Consistency.CRASH,
        files=tuple(_files(status)),
        created_at=read_time(text(entity, "metadata", "creation_time")),
        expires_at=expires_ms / 1000 if expires_ms else None,
        problem=message_of(status) or None,
    )


def _files(status: Json) -> list[SnapshotFile]:
    paths = [text(entry, "snapshot_file_path") for entry in items(status, "snapshot_file_list")]
    return [SnapshotFile(vmdisk_uuid=path.rpartition("/")[2].lower(), path=path) for path in paths if path]


def read_time(written: str) -> float | None:
    """RFC 3339 → Unix seconds; None for anything else."""
    try:
        return from_iso(written)
    except ValueError:
        return None


# --- writing ------------------------------------------------------------------------


def identifier_body(key: str) -> dict[str, Any]:
    """Body of ``idempotence_identifiers``: the same key always gives the same UUID."""
    return {"client_identifier": key, "count": 1, "valid_duration_in_minutes": _IDENTIFIER_MINUTES}


def snapshot_body(
    *, snapshot_uuid: str, vm_uuid: str, name: str, consistency: Consistency, expires_at: float
) -> dict[str, Any]:
    return {
        "api_version": API_VERSION,
        "metadata": {"kind": "vm_snapshot", "uuid": snapshot_uuid},
        "spec": {
            "name": name,
            "snapshot_type": _SNAPSHOT_TYPES[consistency],
            "expiration_time_msecs": int(expires_at * 1000),
            "resources": {"entity_uuid": vm_uuid},
        },
    }


def extension_body(entity: Json, expires_at: float) -> dict[str, Any]:
    """Body of ``PUT vm_snapshots/{uuid}``: the spec just read, another expiry, its version."""
    metadata: dict[str, Any] = {"kind": "vm_snapshot", "uuid": uuid(entity, "metadata", "uuid")}
    if isinstance(dig(entity, "metadata", "spec_version"), int):
        metadata["spec_version"] = number(entity, "metadata", "spec_version")
    spec = {key: value for key, value in members(entity, "spec").items() if value is not None}
    spec["expiration_time_msecs"] = int(expires_at * 1000)
    return {"api_version": API_VERSION, "metadata": metadata, "spec": spec}
