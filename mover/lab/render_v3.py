"""How things look in v3."""

from __future__ import annotations

from typing import Any

from mover.clock import iso
from mover.lab.answers import Json
from mover.lab.cluster import Cluster
from mover.lab.operations import CENTRAL
from mover.lab.state import DiskRecord, HostRecord, NetworkRecord, NicRecord, SnapshotRecord, VmRecord, is_gone

API = "3.1"
MIB = 1 << 20


def entity(kind: str, uuid: str, spec: Json, status: Json, **metadata: Any) -> Json:
    return {
        "api_version": API,
        "metadata": {"kind": kind, "uuid": uuid, **metadata},
        "spec": spec,
        "status": status,
    }


def context(cluster: Cluster, task_uuid: str) -> Json:
    """status.execution_context, in one of the two spellings that builds have."""
    return {"task_uuids": [task_uuid]} if cluster.options.execution_context_list else {"task_uuid": task_uuid}


def reference(cluster: Cluster) -> Json:
    return {"kind": "cluster", "uuid": cluster.state.cluster_uuid, "name": cluster.state.cluster_name}


def elsewhere(cluster: Cluster) -> Json:
    """The second cluster, of which only Central tells."""
    uuid = f"0006{cluster.state.cluster_uuid[4:-4]}dead"
    return {"kind": "cluster", "uuid": uuid, "name": "far-away"}


# --- VMs ------------------------------------------------------------------------------------


def vm(cluster: Cluster, record: VmRecord, side: str, *, task_uuid: str | None = None) -> Json:
    """task_uuid: a task is about to change it."""
    where = elsewhere(cluster) if record.is_elsewhere else reference(cluster)
    base: Json = {"name": record.name, "description": record.description, "cluster_reference": where}
    shared = _resources(cluster, record)
    tools = _tools(record)
    status: Json = {**base, "state": "PENDING" if task_uuid else "COMPLETE", "resources": {**shared, **tools}}
    if task_uuid:
        status["execution_context"] = context(cluster, task_uuid)
    status["resources"] |= {"hypervisor_type": "AHV", "protection_type": record.protection_type}
    status["resources"]["disk_list"] = [{**disk, "is_migration_in_progress": False} for disk in shared["disk_list"]]
    if record.host_uuid:
        host = cluster.state.hosts[record.host_uuid]
        status["resources"]["host_reference"] = {"kind": "host", "uuid": host.uuid, "name": host.name}
    return entity("vm", record.uuid, {**base, "resources": shared}, status, **_vm_metadata(cluster, record, side))


def _vm_metadata(cluster: Cluster, record: VmRecord, side: str) -> Json:
    mapping = record.categories if side == CENTRAL else {}
    metadata: Json = {
        "spec_version": record.spec_version,
        "entity_version": str(record.logical_timestamp),
        "creation_time": iso(record.created_at),
        "last_update_time": iso(record.updated_at),
        "categories": {key: values[0] for key, values in mapping.items() if values},
        "categories_mapping": mapping,
        "owner_reference": {"kind": "user", "uuid": cluster.state.admin_uuid, "name": cluster.options.username},
    }
    if side == CENTRAL:
        metadata["project_reference"] = {"kind": "project", "uuid": cluster.state.central_uuid, "name": "_internal"}
    return metadata


def _resources(cluster: Cluster, record: VmRecord) -> Json:
    boot: Json = {"boot_type": record.boot_type}
    if record.boot_type == "LEGACY":
        boot["boot_device_order_list"] = [{"NIC": "NETWORK"}.get(name, name) for name in record.boot_order]
        if record.boot_slot:
            bus, index = record.boot_slot
            boot["boot_device"] = {"disk_address": {"adapter_type": bus, "device_index": index}}
    resources: Json = {
        "num_sockets": record.sockets,
        "num_vcpus_per_socket": record.cores,
        "num_threads_per_core": 1,
        "memory_size_mib": record.memory_mib,
        "power_state": "ON" if record.is_on else "OFF",
        "power_state_mechanism": {"mechanism": "HARD", "guest_transition_config": {}},
        "machine_type": record.machine_type,
        "hardware_clock_timezone": record.timezone,
        "vga_console_enabled": True,
        "is_agent_vm": False,
        "enable_cpu_passthrough": False,
        "hardware_virtualization_enabled": False,
        "is_vcpu_hard_pinned": False,
        "vnuma_config": {"num_vnuma_nodes": 0},
        "gpu_list": [],
        "serial_port_list": [],
        **record.extra,
        "boot_config": boot,
        "nic_list": [_nic(cluster, nic) for nic in record.nics],
        "disk_list": [disk(cluster, one) for one in record.disks],
    }
    if record.has_vtpm:
        resources["vtpm_config"] = {"vtpm_enabled": True}
    return resources


def disk(cluster: Cluster, record: DiskRecord) -> Json:
    body: Json = {
        "uuid": record.device_uuid,
        "device_properties": {
            "device_type": record.kind,
            "disk_address": {"adapter_type": record.bus, "device_index": record.index},
        },
    }
    if record.size_bytes:
        body |= {"disk_size_bytes": record.size_bytes, "disk_size_mib": -(-record.size_bytes // MIB)}
    if record.container_uuid:
        name = cluster.container_name(record.container_uuid)
        place = {"kind": "storage_container", "uuid": record.container_uuid, "name": name}
        body["storage_config"] = {"storage_container_reference": place, "flash_mode": "DISABLED"}
    if record.data_source:
        body["data_source_reference"] = record.data_source
    group = cluster.state.volume_groups.get(record.volume_group_uuid or "")
    if group:
        body["volume_group_reference"] = {"kind": "volume_group", "uuid": group.uuid, "name": group.name}
    return body


def _nic(cluster: Cluster, record: NicRecord) -> Json:
    network = cluster.state.networks[record.network_uuid]
    return {
        "uuid": record.uuid,
        "nic_type": "NORMAL_NIC",
        "mac_address": record.mac_address,
        "is_connected": record.is_connected,
        "vlan_mode": "ACCESS",
        "trunked_vlan_list": [],
        "model": "VIRTIO",
        "num_queues": 1,
        **record.extra,
        "subnet_reference": {"kind": "subnet", "uuid": network.uuid, "name": network.name},
        "ip_endpoint_list": [{"ip": record.ip_address, "type": "ASSIGNED"}] if record.ip_address else [],
    }


def _tools(record: VmRecord) -> Json:
    if record.guest_tools == "none":
        return {}
    works = record.guest_tools == "vss"
    return {
        "guest_tools": {
            "nutanix_guest_tools": {
                "state": "ENABLED",
                "ngt_state": "INSTALLED",
                "iso_mount_state": "UNMOUNTED",
                "version": "4.1",
                "available_version": "4.1",
                "guest_os_version": "linux:64:Debian-12",
                "enabled_capability_list": ["VSS_SNAPSHOT"] if works else [],
                "vss_snapshot_capable": works,
                "is_reachable": works,
                "vm_mobility_drivers_installed": True,
            }
        }
    }


# --- snapshots --------------------------------------------------------------------------------


def snapshot(cluster: Cluster, record: SnapshotRecord, *, task_uuid: str | None = None) -> Json:
    spec: Json = {
        "name": record.name,
        "snapshot_type": record.asked_type,
        "resources": {"entity_uuid": record.vm_uuid},
    }
    state = cluster.options.error_spelling if record.state == "ERROR" else record.state
    status: Json = {
        "state": cluster.options.deleted_snapshot_state if is_gone(record, cluster.now()) else state,
        "name": record.name,
        "snapshot_type": record.made_type,
        "consistency_group_uuid": record.group_uuid,
        "location_agnostic_uuid": record.location_uuid,
        "message_list": [],
        "resources": {"entity_uuid": record.vm_uuid},
        "snapshot_file_list": [
            {"file_path": file.file_path, "snapshot_file_path": file.snapshot_path} for file in record.files
        ],
    }
    if record.expires_ms is not None:
        spec["expiration_time_msecs"] = status["expiration_time_msecs"] = record.expires_ms
    if record.problem:
        status["message_list"] = [{"reason": "INTERNAL_ERROR", "message": record.problem, "details": {}}]
    if task_uuid and cluster.options.snapshot_shows_context:
        status["execution_context"] = context(cluster, task_uuid)
    return entity(
        "vm_snapshot",
        record.uuid,
        spec,
        status,
        creation_time=iso(record.created_at),
        last_update_time=iso(record.updated_at),
        spec_version=record.spec_version,
    )


# --- the rest of the inventory ------------------------------------------------------------------


def element(cluster: Cluster, side: str) -> Json:
    """The cluster itself; Central may not know its address."""
    options, state = cluster.options, cluster.state
    knows_address = side != CENTRAL or options.central_tells_address
    hosts = [
        {"ip": host.address, "version": "el8.nutanix.20230302.101026", "type": "AHV"} for host in state.hosts.values()
    ]
    return _cluster(
        state.cluster_uuid,
        state.cluster_name,
        {
            "nodes": {"hypervisor_server_list": hosts},
            "config": {
                "service_list": ["AOS"],
                "software_map": {
                    "NOS": {"software_type": "NOS", "status": "INSTALLED", "version": options.aos_version}
                },
                "build": _build(f"el8.5-release-fraser-{options.aos_version}", options.aos_version),
                "is_available": True,
                "timezone": "UTC",
                "operation_mode": "NORMAL",
            },
            "network": {"external_ip": state.address} if knows_address else {},
        },
    )


def central(cluster: Cluster) -> Json:
    return _cluster(
        cluster.state.central_uuid,
        "Unnamed",
        {
            "config": {
                "service_list": ["PRISM_CENTRAL"],
                "build": _build("pc.2024.3.1.1", "pc"),
                "is_available": True,
            },
            "network": {},
        },
    )


def unreachable_element(cluster: Cluster) -> Json:
    """A second cluster, whose Element does not answer (an address for documentation)."""
    where = elsewhere(cluster)
    config = {"service_list": ["AOS"], "build": _build("el7.3-release-euphrates-6.5", "6.5"), "is_available": False}
    return _cluster(where["uuid"], where["name"], {"config": config, "network": {"external_ip": "192.0.2.1"}})


def _build(full_version: str, version: str) -> Json:
    commit = {"commit_id": "0" * 40, "short_commit_id": "000000"}
    return {"full_version": full_version, "version": version, "build_type": "release", **commit}


def _cluster(uuid: str, name: str, resources: Json) -> Json:
    status = {"state": "COMPLETE", "name": name, "resources": resources}
    spec = {"name": name, "resources": {"config": {}, "network": resources["network"]}}
    return entity("cluster", uuid, spec, status, spec_version=1)


def host(cluster: Cluster, record: HostRecord) -> Json:
    number = sum(vm.host_uuid == record.uuid for vm in cluster.vms())
    resources: Json = {
        "controller_vm": {"ip": cluster.state.address, "oplog_usage": {}},
        "hypervisor": {"ip": record.address, "hypervisor_full_name": "Nutanix 20230302.101026", "num_vms": number},
        "host_type": "HYPER_CONVERGED",
        "memory_capacity_mib": 131072,
        "num_cpu_sockets": 2,
        "num_cpu_cores": 32,
        "cpu_model": "Intel(R) Xeon(R)",
    }
    status: Json = {
        "state": "COMPLETE",
        "name": record.name,
        "resources": resources,
        "cluster_reference": reference(cluster),
    }
    return entity("host", record.uuid, {"name": record.name, "resources": {}}, status, spec_version=1)


def subnet(cluster: Cluster, record: NetworkRecord) -> Json:
    body: Json = {
        "name": record.name,
        "cluster_reference": reference(cluster),
        "resources": {"subnet_type": "VLAN", "vlan_id": record.vlan_id, "vswitch_name": "br0"},
    }
    return entity("subnet", record.uuid, body, {**body, "state": "COMPLETE"}, spec_version=1)
