"""How things look in v2. Unset members are left out, words are lower case, as in real answers."""

from __future__ import annotations

from typing import Any

from mover.lab.answers import Json
from mover.lab.cluster import Cluster
from mover.lab.state import (
    ContainerRecord,
    DiskRecord,
    FrozenFile,
    HostRecord,
    NetworkRecord,
    OldSnapshotRecord,
    VmRecord,
    VolumeGroupRecord,
)


def collection(entities: list[Json], *, total: int, first: int = 0) -> Json:
    """An envelope; first: 0-based place of its first entity."""
    return {
        "metadata": {
            "grand_total_entities": total,
            "total_entities": total,
            "count": len(entities),
            "start_index": first + 1 if entities else 0,
            "end_index": first + len(entities),
        },
        "entities": entities,
    }


def vm(cluster: Cluster, record: VmRecord, *, with_disks: bool, with_nics: bool) -> Json:
    body: Json = {
        "uuid": record.uuid,
        "name": record.name,
        "description": record.description,
        "memory_mb": record.memory_mib,
        "num_vcpus": record.sockets,
        "num_cores_per_vcpu": record.cores,
        "power_state": "on" if record.is_on else "off",
        "timezone": record.timezone,
        "machine_type": record.machine_type.lower(),
        "ha_priority": record.ha_priority,
        "gpus_assigned": False,
        "allow_live_migrate": True,
        "boot": _boot(record),
        "vm_features": {
            "AGENT_VM": record.extra.get("is_agent_vm", False),
            "VGA_CONSOLE": record.extra.get("vga_console_enabled", True),
        },
        "vm_logical_timestamp": record.logical_timestamp,
    }
    if record.host_uuid:
        body["host_uuid"] = record.host_uuid
    if record.cbr_not_capable_reason:
        body["cbr_not_capable_reason"] = record.cbr_not_capable_reason
    if with_disks:
        body["vm_disk_info"] = [disk(cluster, one) for one in record.disks]
    if with_nics:
        body["vm_nics"] = nics(record)
    return body


def _boot(record: VmRecord) -> Json:
    body: Json = {"uefi_boot": record.boot_type != "LEGACY", "secure_boot": record.boot_type == "SECURE_BOOT"}
    if record.boot_order:
        body["boot_device_order"] = record.boot_order
    if record.boot_slot:
        body["boot_device_type"] = "disk"
        body["disk_address"] = {"device_bus": record.boot_slot[0].lower(), "device_index": record.boot_slot[1]}
    return body


def disk(cluster: Cluster, record: DiskRecord) -> Json:
    address: Json = {
        "device_bus": record.bus.lower(),
        "device_index": record.index,
        "disk_label": record.label,
        "device_uuid": record.device_uuid,
    }
    if record.vmdisk_uuid:
        address |= {"vmdisk_uuid": record.vmdisk_uuid, "ndfs_filepath": cluster.live_path(record)}
    if record.volume_group_uuid:
        address["volume_group_uuid"] = record.volume_group_uuid
    body: Json = {
        "disk_address": address,
        "is_cdrom": record.kind == "CDROM",
        "is_empty": record.kind == "CDROM" and not record.size_bytes,
        "flash_mode_enabled": False,
        "is_scsi_passthrough": record.is_passthrough,
        "is_hot_remove_enabled": record.bus == "SCSI",
        "is_thin_provisioned": False,
        "shared": record.kind == "VOLUME_GROUP",
    }
    if record.size_bytes:
        body |= {"size": record.size_bytes, "storage_container_uuid": record.container_uuid}
    if not cluster.options.source_is_shown:
        return body
    if record.source_path:
        body["source_disk_address"] = {"ndfs_filepath": record.source_path}
    elif record.source_vmdisk_uuid:
        body["source_disk_address"] = {"vmdisk_uuid": record.source_vmdisk_uuid}
    return body


def nics(record: VmRecord) -> list[Json]:
    found = []
    for nic in record.nics:
        body: Json = {
            "nic_uuid": nic.uuid,
            "mac_address": nic.mac_address,
            "network_uuid": nic.network_uuid,
            "model": nic.extra.get("model", "VIRTIO").lower(),
            "is_connected": nic.is_connected,
            "vlan_mode": "Access",
        }
        if nic.ip_address:
            body |= {"ip_address": nic.ip_address, "ip_addresses": [nic.ip_address]}
        found.append(body)
    return found


def snapshot(cluster: Cluster, record: OldSnapshotRecord) -> Json:
    spec = vm(cluster, record.vm, with_disks=False, with_nics=True)
    frozen = {file.vmdisk_uuid: file for file in record.files}
    spec["vm_disks"] = [
        _disk_spec(one, frozen.get(one.vmdisk_uuid or ""), record.group_uuid) for one in record.vm.disks
    ]
    return {
        "uuid": record.uuid,
        "group_uuid": record.group_uuid,
        "vm_uuid": record.vm.uuid,
        "snapshot_name": record.name,
        "created_time": int(record.created_at * 1_000_000),
        "deleted": False,
        "logical_timestamp": 1,
        "vm_create_spec": spec,
    }


def _disk_spec(record: DiskRecord, file: FrozenFile | None, group_uuid: str) -> Json:
    body: Json = {
        "disk_address": {"device_bus": record.bus.lower(), "device_index": record.index},
        "is_cdrom": record.kind == "CDROM",
    }
    if file is None:
        body["is_empty"] = record.kind == "CDROM"
        return body
    body["vm_disk_clone"] = {
        "disk_address": {"vmdisk_uuid": file.vmdisk_uuid, "ndfs_filepath": file.snapshot_path},
        "snapshot_group_uuid": group_uuid,
        "storage_container_uuid": record.container_uuid,
        "minimum_size": file.size_bytes,
    }
    return body


def virtual_disk(cluster: Cluster, owner: VmRecord, record: DiskRecord) -> Json:
    state = cluster.state
    return {
        "uuid": record.vmdisk_uuid,
        "device_uuid": record.device_uuid,
        "virtual_disk_id": f"{state.cluster_uuid}::{record.vmdisk_uuid}",
        "cluster_uuid": state.cluster_uuid,
        "nutanix_nfsfile_path": cluster.live_path(record),
        "disk_address": record.label,
        "attached_vm_uuid": owner.uuid,
        "attached_vm_id": f"{state.cluster_uuid}::{owner.uuid}",
        "attached_vmname": owner.name,
        "disk_capacity_in_bytes": record.size_bytes,
        "storage_container_uuid": record.container_uuid,
        "flash_mode_enabled": False,
    }


def container(cluster: Cluster, record: ContainerRecord) -> Json:
    """Numbers in usage_stats are strings, as Prism has them."""
    free = record.free_bytes
    usage = {
        "storage.user_capacity_bytes": str(record.capacity_bytes),
        "storage.user_free_bytes": str(free),
        "storage.user_usage_bytes": str(record.capacity_bytes - free),
    }
    if cluster.options.container_stats != "told":
        usage = dict.fromkeys(usage, "-1") if cluster.options.container_stats == "unknown" else {}
    return {
        "storage_container_uuid": record.uuid,
        "id": f"{cluster.state.cluster_uuid}::{record.number}",
        "name": record.name,
        "cluster_uuid": cluster.state.cluster_uuid,
        "max_capacity": record.capacity_bytes,
        "replication_factor": 2,
        "marked_for_removal": False,
        "is_nutanix_managed": record.name.startswith("Nutanix"),
        "nfs_whitelist": [],
        "nfs_whitelist_inherited": True,
        "usage_stats": usage,
    }


def network(record: NetworkRecord) -> Json:
    return {
        "uuid": record.uuid,
        "name": record.name,
        "vlan_id": record.vlan_id,
        "vswitch_name": "br0",
        "logical_timestamp": 1,
        "ip_config": {},
    }


def volume_group(cluster: Cluster, record: VolumeGroupRecord, *, with_size: bool, with_path: bool) -> Json:
    one: Json = {"index": 0, "vmdisk_uuid": record.vmdisk_uuid, "storage_container_uuid": record.container_uuid}
    if with_size:
        one["vmdisk_size_bytes"] = record.size_bytes
    if with_path:
        name = cluster.container_name(record.container_uuid)
        one["vmdisk_path"] = f"/{name}/.acropolis/vmdisk/{record.vmdisk_uuid}"
    return {
        "uuid": record.uuid,
        "name": record.name,
        "description": "",
        "logical_timestamp": 1,
        "is_shared": False,
        "usage_type": "USER",
        "flash_mode_enabled": False,
        "load_balance_vm_attachments": False,
        "disk_list": [one],
        "attachment_list": [{"vm_uuid": uuid} for uuid in record.vm_uuids],
    }


def host(cluster: Cluster, record: HostRecord) -> Json:
    return {
        "uuid": record.uuid,
        "name": record.name,
        "cluster_uuid": cluster.state.cluster_uuid,
        "hypervisor_address": record.address,
        "service_vmexternal_ip": cluster.state.address,
        "hypervisor_full_name": "Nutanix 20230302.101026",
        "hypervisor_type": "kKvm",
        "host_type": "HYPER_CONVERGED",
        "state": "NORMAL",
        "num_vms": sum(vm.host_uuid == record.uuid for vm in cluster.vms()),
        "memory_capacity_in_bytes": 137438953472,
        "num_cpu_sockets": 2,
        "num_cpu_cores": 32,
    }


def about(cluster: Cluster) -> Json:
    state, options = cluster.state, cluster.options
    body: dict[str, Any] = {
        "id": f"{state.cluster_uuid}::{state.incarnation}",
        "uuid": state.cluster_uuid,
        "cluster_uuid": state.cluster_uuid,
        "cluster_incarnation_id": state.incarnation,
        "name": state.cluster_name,
        "version": options.aos_version,
        "full_version": f"el8.5-release-fraser-{options.aos_version}-stable",
        "cluster_external_ipaddress": state.address,
        "cluster_external_data_services_ipaddress": None,
        "num_nodes": len(state.hosts),
        "hypervisor_types": ["kKvm"],
        "storage_type": "ALL_FLASH",
        "is_registered_to_pc": options.has_central,
        "timezone": "UTC",
        "cluster_functions": ["NDFS"],
        "operation_mode": "NORMAL",
    }
    return body
