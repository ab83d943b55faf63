"""What bodies the lab accepts: a compact table of members and types, and the check.

A table is a dict of member → type. ``name!``: required. Types: ``str``, ``str<=64``,
``int``, ``int>=0``, ``int 0..30``, ``bool``, ``uuid``, ``time``, ``mac``, ``any``,
``A|B|C`` (one of these words), a dict (an object), ``[type]`` (a list of it),
``{"*": type}`` (any member names). JSON null is never accepted: leave the member out.
"""

from __future__ import annotations

import re
from typing import Any

_UUID = re.compile(r"[a-fA-F0-9]{8}(-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}")
_MAC = re.compile(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
_SIZED = re.compile(r"str<=(\d+)")
_RANGE = re.compile(r"int (-?\d+)\.\.(\d+)")
_FROM = re.compile(r"int>=(-?\d+)")

Table = Any


class Mismatch(Exception):
    """Where a body breaks its table, and how, in Prism's words."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place or 'body'}: {problem}")


def check(value: Any, table: Table, *, strict: bool, place: str = "") -> None:
    """Raises Mismatch. strict: members that the table lacks are refused."""
    if isinstance(table, dict):
        _check_object(value, table, strict, place)
    elif isinstance(table, list):
        if not isinstance(value, list):
            raise Mismatch(place, f"{value!r} is not of type 'array'")
        for number, item in enumerate(value):
            check(item, table[0], strict=strict, place=f"{place}[{number}]")
    else:
        _check_plain(value, table, place)


def _check_object(value: Any, table: dict[str, Table], strict: bool, place: str) -> None:
    if not isinstance(value, dict):
        raise Mismatch(place, f"{value!r} is not of type 'object'")
    known = {name.rstrip("!"): kind for name, kind in table.items()}
    for name in table:
        if name.endswith("!") and name[:-1] not in value:
            raise Mismatch(place, f"{name[:-1]!r} is a required property")
    for name, item in value.items():
        kind = known.get(name, known.get("*"))
        if kind is None and strict:
            raise Mismatch(place, f"Additional properties are not allowed ({name!r} was unexpected)")
        if kind is not None:
            check(item, kind, strict=strict, place=f"{place}.{name}" if place else name)


def _check_plain(value: Any, kind: str, place: str) -> None:
    if kind == "any":
        return
    if kind == "bool":
        if not isinstance(value, bool):
            raise Mismatch(place, f"{value!r} is not of type 'boolean'")
    elif kind.startswith("int"):
        _check_number(value, kind, place)
    elif not isinstance(value, str):
        raise Mismatch(place, f"{value!r} is not of type 'string'")
    else:
        _check_text(value, kind, place)


def _check_number(value: Any, kind: str, place: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Mismatch(place, f"{value!r} is not of type 'integer'")
    low, high = -(2**63), 2**63 - 1
    if found := _RANGE.fullmatch(kind):
        low, high = int(found[1]), int(found[2])
    elif found := _FROM.fullmatch(kind):
        low = int(found[1])
    if not low <= value <= high:
        raise Mismatch(place, f"{value} is outside of {low}..{high}")


def _check_text(value: str, kind: str, place: str) -> None:
    if found := _SIZED.fullmatch(kind):
        if len(value) > int(found[1]):
            raise Mismatch(place, f"{value!r} is too long, at most {found[1]}")
    elif kind == "uuid":
        if not _UUID.fullmatch(value):
            raise Mismatch(place, f"{value!r} is not a UUID")
    elif kind == "mac":
        if not _MAC.fullmatch(value):
            raise Mismatch(place, f"{value!r} is not a MAC address")
    elif "|" in kind and value.upper() not in kind.split("|"):
        raise Mismatch(place, f"{value!r} is not one of {kind.split('|')}")


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


_REFERENCE = {"kind!": "str", "uuid!": "uuid", "name": "str"}
_LOOSE_REFERENCE = {"kind": "str", "uuid": "uuid", "name": "str", "url": "str"}
_MAPPING = {"*": ["str"]}


def _metadata(kind: str) -> dict[str, Table]:
    return {
        "kind!": f"{kind.upper()}|{kind.upper()}",
        "uuid": "uuid",
        "name": "str<=80",
        "spec_version": "int",
        "spec_hash": "str",
        "entity_version": "str",
        "creation_time": "str",
        "last_update_time": "str",
        "categories": {"*": "str"},
        "categories_mapping": _MAPPING,
        "use_categories_mapping": "bool",
        "should_force_translate": "bool",
        "owner_reference": _REFERENCE,
        "project_reference": _REFERENCE,
    }


_DISK_ADDRESS = {"adapter_type!": "SCSI|IDE|PCI|SATA|SPAPR", "device_index!": "int>=0"}
_DISK = {
    "uuid": "uuid",
    "disk_size_bytes": "int>=1",
    "disk_size_mib": "int>=1",
    "device_properties": {"device_type": "DISK|CDROM|VOLUME_GROUP", "disk_address": _DISK_ADDRESS},
    "storage_config": {"flash_mode": "str", "storage_container_reference": _LOOSE_REFERENCE},
    "data_source_reference": {**_LOOSE_REFERENCE, "is_direct_attach": "bool"},
    "volume_group_reference": _LOOSE_REFERENCE,
}
_NIC = {
    "uuid": "uuid",
    "nic_type": "NORMAL_NIC|DIRECT_NIC|NETWORK_FUNCTION_NIC",
    "ip_endpoint_list": [
        {"ip": "str", "type": "str", "ip_type": "str", "prefix_length": "int 0..32", "gateway_address_list": ["str"]}
    ],
    "num_queues": "int",
    "network_function_nic_type": "str",
    "network_function_chain_reference": _REFERENCE,
    "vlan_mode": "str",
    "mac_address": "mac",
    "subnet_reference": _REFERENCE,
    "model": "str",
    "is_connected": "bool",
    "trunked_vlan_list": ["int"],
}
_RESOURCES = {
    "num_threads_per_core": "int>=1",
    "num_sockets": "int>=1",
    "num_vcpus_per_socket": "int>=1",
    "memory_size_mib": "int>=1",
    "gpu_list": [{"vendor": "str", "mode": "str", "device_id": "int"}],
    "boot_config": {
        "boot_type": "LEGACY|UEFI|SECURE_BOOT",
        "boot_device": {"disk_address": _DISK_ADDRESS, "mac_address": "mac"},
        "boot_device_order_list": ["CDROM|DISK|NETWORK"],
        "data_source_reference": _LOOSE_REFERENCE,
    },
    "disk_list": [_DISK],
    "nic_list": [_NIC],
    "serial_port_list": [{"index": "int", "is_connected": "bool"}],
    "power_state": "ON|OFF",
    "power_state_mechanism": {
        "mechanism": "str",
        "guest_transition_config": {"should_fail_on_script_failure": "bool", "enable_script_exec": "bool"},
    },
    "vga_console_enabled": "bool",
    "hardware_virtualization_enabled": "bool",
    "machine_type": "PC|PSERIES|Q35",
    "hardware_clock_timezone": "str<=64",
    "is_vcpu_hard_pinned": "bool",
    "is_agent_vm": "bool",
    "enable_cpu_passthrough": "bool",
    "disable_branding": "bool",
    "vnuma_config": {"num_vnuma_nodes": "int"},
    "vtpm_config": {"vtpm_enabled": "bool"},
    "guest_os_id": "str<=64",
    "guest_tools": "any",
    "guest_customization": "any",
    "storage_config": "any",
    "parent_reference": _LOOSE_REFERENCE,
}

VM_INTENT = {
    "api_version": "str",
    "metadata!": _metadata("vm"),
    "spec!": {
        "name!": "str<=256",
        "description": "str<=1000",
        "cluster_reference": _REFERENCE,
        "availability_zone_reference": _REFERENCE,
        "resources!": _RESOURCES,
    },
}
SNAPSHOT_INTENT = {
    "api_version": "str",
    "metadata!": _metadata("vm_snapshot"),
    "spec!": {
        "name": "str<=64",
        "snapshot_type": "CRASH_CONSISTENT|APPLICATION_CONSISTENT",
        "expiration_time_msecs": "int",
        "resources": {"entity_uuid": "uuid"},
    },
}
CHANGED_REGIONS = {
    "snapshot_file_path!": "str",
    "reference_snapshot_file_path": "str",
    "start_offset": "int>=0",
    "end_offset": "int>=0",
}
IDEMPOTENCE = {"client_identifier": "str", "count!": "int 1..4096", "valid_duration_in_minutes": "int 1..527040"}
LIST = {
    "kind": "str",
    "length": "int>=1",
    "offset": "int>=0",
    "filter": "str",
    "sort_attribute": "str",
    "sort_order": "ASCENDING|DESCENDING",
}
TASK_POLL = {"task_uuid_list!": ["uuid"], "poll_timeout_seconds!": "int 0..30"}
CATEGORY_QUERY = {
    "usage_type": "str",
    "group_member_count": "int>=0",
    "group_member_offset": "int>=0",
    "category_filter": {"type": "str", "kind_list": ["str"], "params": _MAPPING},
}

_V2_ADDRESS = {
    "device_bus": "SCSI|IDE|PCI|SATA|SPAPR|NVME",
    "device_index": "int>=0",
    "vmdisk_uuid": "uuid",
    "ndfs_filepath": "str",
    "volume_group_uuid": "uuid",
    "device_uuid": "uuid",
    "disk_label": "str",
    "is_cdrom": "bool",
}
_V2_DISK = {
    "disk_address": _V2_ADDRESS,
    "is_cdrom": "bool",
    "is_empty": "bool",
    "is_scsi_pass_through": "bool",
    "is_thin_provisioned": "bool",
    "vm_disk_clone": {
        "disk_address!": _V2_ADDRESS,
        "minimum_size": "int>=1",
        "snapshot_group_uuid": "uuid",
        "storage_container_uuid": "uuid",
    },
    "vm_disk_create": {"size": "int>=1", "storage_container_uuid": "uuid"},
    "vm_disk_clone_external": "any",
    "vm_disk_passthru_external": "any",
}
_V2_NIC = {
    "network_uuid!": "uuid",
    "mac_address": "mac",
    "model": "str",
    "is_connected": "bool",
    "request_ip": "bool",
    "requested_ip_address": "str",
    "vlan_mode": "ACCESS|TRUNKED|UNTAGGED",
    "nic_uuid": "uuid",
}
V2_ATTACH = {"uuid": "uuid", "vm_disks!": [_V2_DISK]}
V2_DETACH = {"uuid": "uuid", "vm_disks!": [{"disk_address!": _V2_ADDRESS, "size": "int>=0", "is_cdrom": "bool"}]}
V2_DISK_UPDATE = {"uuid": "uuid", "vm_disks!": [{**_V2_DISK, "disk_address!": _V2_ADDRESS}]}
V2_POWER = {
    "transition!": "ON|OFF|POWERCYCLE|RESET|PAUSE|SUSPEND|RESUME|SAVE|ACPI_SHUTDOWN|ACPI_REBOOT",
    "host_uuid": "uuid",
    "uuid": "uuid",
    "vm_logical_timestamp": "int",
}
_V2_VM = {
    "uuid": "uuid",
    "name": "str<=256",
    "description": "str",
    "memory_mb": "int>=1",
    "num_vcpus": "int>=1",
    "num_cores_per_vcpu": "int>=1",
    "timezone": "str",
    "machine_type": "PC|PSERIES|Q35",
    "ha_priority": "int",
    "boot": {
        "boot_device_order": ["CDROM|DISK|NIC"],
        "boot_device_type": "CDROM|DISK|NIC",
        "disk_address": _V2_ADDRESS,
        "mac_addr": "mac",
        "hardware_virtualization": "bool",
        "secure_boot": "bool",
        "uefi_boot": "bool",
    },
    "vm_features": {"*": "bool"},
    "vm_disks": [_V2_DISK],
    "vm_nics": [_V2_NIC],
    "vm_logical_timestamp": "int",
}
V2_VM_CREATE = {
    **{name: kind for name, kind in _V2_VM.items() if name not in ("name", "memory_mb", "num_vcpus")},
    "name!": "str<=256",
    "memory_mb!": "int>=1",
    "num_vcpus!": "int>=1",
}
V2_VM_UPDATE = _V2_VM
V2_SNAPSHOT = {"snapshot_specs!": [{"vm_uuid!": "uuid", "snapshot_name": "str", "uuid": "uuid"}]}
V2_TASK_POLL = {"completed_tasks!": ["uuid"], "timeout_interval": "int>=0"}
V2_TASK_LIST = {
    "entity_list": [{"entity_id": "str", "entity_type": "str"}],
    "include_completed": "bool",
    "count": "int>=0",
    "operation_type_list": ["str"],
    "cluster_uuid_list": ["str"],
    "cut_off_time_usecs": "int",
    "include_subtasks_info": "bool",
}
