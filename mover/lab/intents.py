"""What a client asks for, read from v2 and v3 bodies into records and disk wishes."""

from __future__ import annotations

from typing import Any

from mover.clock import Clock, secret_bytes
from mover.lab.answers import Json, Refusal
from mover.lab.cluster import Cluster
from mover.lab.orders import DiskWish
from mover.lab.state import DiskRecord, NicRecord, VmRecord

_KEPT = {
    "gpu_list",
    "serial_port_list",
    "vga_console_enabled",
    "is_agent_vm",
    "enable_cpu_passthrough",
    "hardware_virtualization_enabled",
    "is_vcpu_hard_pinned",
    "vnuma_config",
    "power_state_mechanism",
    "disable_branding",
    "num_threads_per_core",
}
"""v3 resources that come back as they went in."""

_KEPT_OF_NIC = {"nic_type", "model", "vlan_mode", "trunked_vlan_list", "num_queues"}
_FEATURES = {"AGENT_VM": "is_agent_vm", "VGA_CONSOLE": "vga_console_enabled"}
"""v2's name of a feature → v3's member."""

_SOURCES = ("vm_disk_clone", "vm_disk_create", "vm_disk_clone_external", "vm_disk_passthru_external")


def invalid(message: str) -> Refusal:
    return Refusal(422, "INVALID_REQUEST", message)


def new_mac() -> str:
    """With the prefix that Prism gives."""
    return "50:6b:8d:" + ":".join(f"{byte:02x}" for byte in secret_bytes(3))


def new_disk(clock: Clock, **facts: Any) -> DiskWish:
    return DiskWish(device_uuid=clock.new_uuid(), vmdisk_uuid=clock.new_uuid(), **facts)


# --- v3 -------------------------------------------------------------------------------------


def vm_of_v3(cluster: Cluster, body: Json, uuid: str, former: VmRecord | None = None) -> VmRecord:
    """The VM that a v3 intent describes, without its disks."""
    spec, metadata = body["spec"], body["metadata"]
    resources = spec["resources"]
    boot = resources.get("boot_config", {})
    address = boot.get("boot_device", {}).get("disk_address")
    machine = resources.get("machine_type", former.machine_type if former else "PC")
    if boot.get("boot_type") == "SECURE_BOOT" and machine != "Q35":
        raise invalid("SECURE_BOOT needs machine type Q35")
    return VmRecord(
        uuid=uuid,
        name=spec["name"],
        description=spec.get("description", ""),
        memory_mib=resources.get("memory_size_mib", 1024),
        sockets=resources.get("num_sockets", 1),
        cores=resources.get("num_vcpus_per_socket", 1),
        is_on=resources.get("power_state", "OFF") == "ON",
        boot_type=boot.get("boot_type", "LEGACY"),
        boot_slot=(address["adapter_type"], address["device_index"]) if address else None,
        boot_order=[{"NETWORK": "NIC"}.get(name, name) for name in boot.get("boot_device_order_list", [])],
        machine_type=machine,
        has_vtpm=resources.get("vtpm_config", {}).get("vtpm_enabled", False),
        timezone=resources.get("hardware_clock_timezone", "UTC"),
        categories=_categories(cluster, metadata),
        nvram_uuid=cluster.clock.new_uuid() if boot.get("boot_type", "LEGACY") != "LEGACY" else None,
        nics=[_nic_of_v3(cluster, nic, former) for nic in resources.get("nic_list", [])],
        extra={name: value for name, value in resources.items() if name in _KEPT},
    )


def _categories(cluster: Cluster, metadata: Json) -> dict[str, list[str]]:
    if metadata.get("use_categories_mapping"):
        mapping = metadata.get("categories_mapping", {})
    else:
        mapping = {key: [value] for key, value in metadata.get("categories", {}).items()}
    for key, values in mapping.items():
        if not set(values) <= set(cluster.options.categories.get(key, [])):
            raise invalid(f"category {key}: {values} does not exist")
    return dict(mapping)


def _nic_of_v3(cluster: Cluster, nic: Json, former: VmRecord | None) -> NicRecord:
    subnet = nic.get("subnet_reference")
    if subnet is None:
        raise invalid("a NIC needs a subnet_reference")
    known = next((one for one in former.nics if one.uuid == nic.get("uuid")), None) if former else None
    addresses = [one["ip"] for one in nic.get("ip_endpoint_list", []) if "ip" in one]
    return NicRecord(
        uuid=known.uuid if known else cluster.clock.new_uuid(),
        mac_address=nic.get("mac_address", known.mac_address if known else new_mac()).lower(),
        network_uuid=subnet["uuid"].lower(),
        is_connected=nic.get("is_connected", True),
        ip_address=addresses[0] if addresses else None,
        extra={name: value for name, value in nic.items() if name in _KEPT_OF_NIC},
    )


def wish_of_v3(cluster: Cluster, item: Json) -> DiskWish:
    """A disk_list item without a uuid: something new."""
    properties = item.get("device_properties", {})
    address = properties.get("disk_address", {})
    kind = properties.get("device_type", "DISK")
    container = item.get("storage_config", {}).get("storage_container_reference", {}).get("uuid")
    facts: dict[str, Any] = {
        "kind": kind,
        "bus": address.get("adapter_type"),
        "index": address.get("device_index"),
        "container_uuid": container,
        "size_bytes": item.get("disk_size_bytes", item.get("disk_size_mib", 0) << 20),
    }
    source = item.get("data_source_reference")
    if kind == "VOLUME_GROUP":
        facts["volume_group_uuid"] = item.get("volume_group_reference", {}).get("uuid")
        if facts["volume_group_uuid"] not in cluster.state.volume_groups:
            raise invalid("volume_group_reference names no volume group")
    elif source is not None:
        facts |= _source_of_v3(cluster, source)
    elif kind == "DISK" and not facts["size_bytes"]:
        raise invalid("a disk needs a size or a data source")
    return new_disk(cluster.clock, **facts)


def _source_of_v3(cluster: Cluster, source: Json) -> Json:
    if source.get("kind") != "vm_disk":
        raise invalid(f"data source of kind {source.get('kind')} is not in this lab")
    found = cluster.find_device(str(source.get("uuid", "")).lower())
    if found is None or found[1].vmdisk_uuid is None:
        raise Refusal(404, "ENTITY_NOT_FOUND", f"vm_disk {source.get('uuid')} does not exist")
    return {
        "clone_vmdisk_uuid": found[1].vmdisk_uuid,
        "data_source": {"kind": "vm_disk", "uuid": found[1].device_uuid},
    }


def kept_of_v3(vm: VmRecord, items: list[Json]) -> dict[str, DiskRecord]:
    """Which disks a declarative disk_list keeps, by device UUID. Raises Refusal on a strange one."""
    kept = {}
    for item in items:
        if "uuid" in item:
            disk = vm.by_device(item["uuid"].lower())
            if disk is None:
                raise invalid(f"VM {vm.name} has no disk {item['uuid']}")
            kept[disk.device_uuid] = disk
    return kept


# --- v2 -------------------------------------------------------------------------------------


def wish_of_v2(cluster: Cluster, vm: VmRecord | None, item: Json) -> DiskWish:
    """One vm_disks entry. vm: whose slots a source address may name. Raises Refusal 422."""
    address = item.get("disk_address", {})
    is_cdrom = item.get("is_cdrom", False)
    given = [name for name in _SOURCES if name in item]
    facts: dict[str, Any] = {
        "kind": "CDROM" if is_cdrom else "DISK",
        "bus": address["device_bus"].upper() if "device_bus" in address else None,
        "index": address.get("device_index"),
        "is_passthrough": item.get("is_scsi_pass_through", True),
    }
    if facts["bus"] == "SCSI" and facts["index"] is not None and facts["index"] >= cluster.options.scsi_slots:
        raise invalid(f"scsi.{facts['index']} is beyond the last slot")
    if group := address.get("volume_group_uuid"):
        if group not in cluster.state.volume_groups:
            raise Refusal(404, "ENTITY_NOT_FOUND", f"volume group {group} does not exist")
        return new_disk(cluster.clock, **facts | {"kind": "VOLUME_GROUP", "volume_group_uuid": group})
    if is_cdrom and item.get("is_empty", False) and not given:
        return new_disk(cluster.clock, **facts)
    if len(given) != 1:
        raise invalid(f"exactly one of {', '.join(_SOURCES)} is needed, not {len(given)}")
    if given[0] == "vm_disk_clone":
        return new_disk(cluster.clock, **facts, **_clone_of_v2(vm, item["vm_disk_clone"]))
    if given[0] == "vm_disk_create":
        create = item["vm_disk_create"]
        if "size" not in create or "storage_container_uuid" not in create:
            raise invalid("vm_disk_create needs size and storage_container_uuid")
        return new_disk(
            cluster.clock, **facts, size_bytes=create["size"], container_uuid=create["storage_container_uuid"].lower()
        )
    raise invalid(f"{given[0]} is not in this lab")


def _clone_of_v2(vm: VmRecord | None, clone: Json) -> Json:
    address = clone["disk_address"]
    slot = (address.get("device_bus", "").upper(), address.get("device_index"))
    ways = [name for name in ("vmdisk_uuid", "ndfs_filepath") if address.get(name)]
    if "device_bus" in address and not ways:
        # Beside a path or a UUID it is taken, and means nothing.
        ways.append("slot")
    if len(ways) != 1:
        raise invalid("a source is one of vmdisk_uuid, ndfs_filepath, or bus and index")
    if "minimum_size" in clone and ways != ["vmdisk_uuid"]:
        raise invalid("minimum_size goes with vmdisk_uuid only")
    facts: Json = {
        "minimum_size": clone.get("minimum_size", 0),
        "snapshot_group_uuid": clone.get("snapshot_group_uuid"),
    }
    if ways == ["ndfs_filepath"]:
        return facts | {"clone_path": address["ndfs_filepath"]}
    if ways == ["vmdisk_uuid"]:
        return facts | {"clone_vmdisk_uuid": address["vmdisk_uuid"].lower()}
    disk = vm.slot(slot[0], slot[1] if slot[1] is not None else -1) if vm else None
    if disk is None or disk.vmdisk_uuid is None:
        raise invalid("no disk at the source's bus and index")
    return facts | {"clone_vmdisk_uuid": disk.vmdisk_uuid}


def broken_rule(cluster: Cluster, item: Json) -> str | None:
    """How an attach body breaks the lab's rules on what stands beside a path; None: it does not."""
    clone = item.get("vm_disk_clone")
    if clone is None:
        return None
    path = clone["disk_address"].get("ndfs_filepath", "")
    has_container = "storage_container_uuid" in clone
    if clone.get("snapshot_group_uuid") and not has_container:
        return "storage_container_uuid is required for a snapshot vmdisk"
    if "/.snapshot/" not in path:
        return None
    if cluster.options.attach_source_bus == "required" and "device_bus" not in clone["disk_address"]:
        return "device_bus is required in the source's disk_address"
    rule = cluster.options.attach_container
    if rule == "required" and not has_container:
        return "storage_container_uuid is required for a snapshot vmdisk"
    if rule == "prohibited" and has_container:
        return "storage_container_uuid is prohibited with an absolute path"
    return None


_PLAIN_V2 = {
    "name": "name",
    "description": "description",
    "memory_mb": "memory_mib",
    "num_vcpus": "sockets",
    "num_cores_per_vcpu": "cores",
    "timezone": "timezone",
    "ha_priority": "ha_priority",
}


def vm_of_v2(cluster: Cluster, body: Json, former: VmRecord) -> tuple[VmRecord, list[str]]:
    """``former`` changed by the members of a v2 body, and which record members those were."""
    vm = former.model_copy(deep=True)
    changed = []
    for name, own in _PLAIN_V2.items():
        if name in body:
            setattr(vm, own, body[name])
            changed.append(own)
    if "machine_type" in body:
        vm.machine_type = body["machine_type"].upper()
        changed.append("machine_type")
    if "boot" in body:
        _boot_of_v2(cluster, body["boot"], vm)
        changed += ["boot_type", "boot_slot", "boot_order", "nvram_uuid", "extra"]
    for name, own in _FEATURES.items():
        if name in body.get("vm_features", {}):
            vm.extra[own] = body["vm_features"][name]
            changed.append("extra")
    return vm, changed


def _boot_of_v2(cluster: Cluster, boot: Json, vm: VmRecord) -> None:
    vm.boot_type = "SECURE_BOOT" if boot.get("secure_boot") else "UEFI" if boot.get("uefi_boot") else "LEGACY"
    if vm.boot_type != "LEGACY" and vm.nvram_uuid is None:
        vm.nvram_uuid = cluster.clock.new_uuid()
    address = boot.get("disk_address", {})
    vm.boot_slot = None
    if "device_bus" in address and "device_index" in address:
        vm.boot_slot = (address["device_bus"].upper(), address["device_index"])
    vm.boot_order = list(boot.get("boot_device_order", []))
    vm.extra["hardware_virtualization_enabled"] = boot.get("hardware_virtualization", False)


def nics_of_v2(cluster: Cluster, body: Json) -> list[NicRecord]:
    return [
        NicRecord(
            uuid=cluster.clock.new_uuid(),
            mac_address=nic.get("mac_address", new_mac()).lower(),
            network_uuid=nic["network_uuid"].lower(),
            is_connected=nic.get("is_connected", True),
            ip_address=nic.get("requested_ip_address"),
            extra={"model": nic["model"].upper()} if "model" in nic else {},
        )
        for nic in body.get("vm_nics", [])
    ]
