"""Prism JSON ↔ our values, on the examples of the API reference."""

from __future__ import annotations

from typing import Any

import pytest

from mover.hypervisor.nutanix import answers, inventory, reading, v2, v3
from mover.hypervisor.nutanix.answers import Answer
from mover.model.machine import CloneSource, Consistency, DiskKind, EmptyDisk, Slot, SnapshotState

V3_VM: dict[str, Any] = {
    "metadata": {
        "kind": "vm",
        "uuid": "3F6C0A4E-0d55-4b8e-8a5e-0d7f3a1c9b21",
        "spec_version": 7,
        "entity_version": "12",
        "categories": {"Backup": "Gold"},
        "categories_mapping": {"Backup": ["Gold"], "OS": ["Linux"]},
    },
    "spec": {"name": "web01", "description": "", "resources": {}},
    "status": {
        "state": "COMPLETE",
        "name": "web01",
        "cluster_reference": {"kind": "cluster", "uuid": "00061111", "name": "pe1"},
        "execution_context": {"task_uuid": ["0d6f"]},
        "resources": {
            "num_sockets": 2,
            "num_vcpus_per_socket": 1,
            "memory_size_mib": 4096,
            "power_state": "ON",
            "protection_type": "RULE_PROTECTED",
            "machine_type": "Q35",
            "host_reference": {"kind": "host", "uuid": "e602", "name": "ahv-1"},
            "boot_config": {"boot_type": "UEFI"},
            "vtpm_config": {"vtpm_enabled": True},
            "guest_tools": {
                "nutanix_guest_tools": {
                    "state": "ENABLED",
                    "enabled_capability_list": ["VSS_SNAPSHOT"],
                    "vss_snapshot_capable": True,
                    "is_reachable": True,
                }
            },
            "nic_list": [
                {
                    "uuid": "5e",
                    "mac_address": "50:6B:8D:11:22:33",
                    "is_connected": True,
                    "subnet_reference": {"kind": "subnet", "uuid": "C1", "name": "vlan10"},
                    "ip_endpoint_list": [{"ip": "192.0.2.10", "type": "ASSIGNED"}],
                }
            ],
            "disk_list": [
                {
                    "uuid": "9d20b6f4-1111-4a7c-8e35-64c0de5b7f21",
                    "disk_size_bytes": 42949672960,
                    "device_properties": {
                        "device_type": "DISK",
                        "disk_address": {"adapter_type": "SCSI", "device_index": 0},
                    },
                },
                {
                    "uuid": "b7d3e1a5-3333-4c02-9f86-1a5d0c7e4f92",
                    "device_properties": {
                        "device_type": "CDROM",
                        "disk_address": {"adapter_type": "IDE", "device_index": 0},
                    },
                },
                {
                    "uuid": "9b",
                    "device_properties": {
                        "device_type": "VOLUME_GROUP",
                        "disk_address": {"adapter_type": "SCSI", "device_index": 2},
                    },
                    "volume_group_reference": {"kind": "volume_group", "uuid": "44", "name": "vg1"},
                },
            ],
        },
    },
}
V2_VM: dict[str, Any] = {
    "uuid": "3f6c0a4e-0d55-4b8e-8a5e-0d7f3a1c9b21",
    "name": "web01",
    "power_state": "on",
    "host_uuid": "e6027b48",
    "vm_disk_info": [
        {
            "disk_address": {
                "device_bus": "SCSI",
                "device_index": 0,
                "disk_label": "scsi.0",
                "ndfs_filepath": "/default/.acropolis/vmdisk/5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13",
                "vmdisk_uuid": "5A1E7C90-3c41-4d8e-9b60-2f7d81c4ae13",
                "device_uuid": "9d20b6f4-1111-4a7c-8e35-64c0de5b7f21",
            },
            "is_cdrom": False,
            "is_empty": False,
            "source_disk_address": {"vmdisk_uuid": "41c7d09e"},
            "storage_container_uuid": "c83f5d12",
            "size": 42949672960,
        },
        {"disk_address": {"device_bus": "ide", "device_index": 0}, "is_cdrom": True, "is_empty": True},
    ],
}


def test_a_vm_is_joined_from_both_interfaces():
    vm = inventory.join(V3_VM, V2_VM, None)
    assert (vm.uuid, vm.name, vm.is_on) == ("3f6c0a4e-0d55-4b8e-8a5e-0d7f3a1c9b21", "web01", True)
    assert (vm.memory_bytes, vm.vcpus, vm.boot_type) == (4096 << 20, 2, "uefi")
    assert vm.has_vtpm
    assert vm.can_quiesce
    assert vm.is_protected_elsewhere
    assert vm.categories == {"Backup": ("Gold",), "OS": ("Linux",)}
    assert vm.host_uuid == "e602"
    (disk,) = vm.data_disks()
    assert disk.device_uuid == "9d20b6f4-1111-4a7c-8e35-64c0de5b7f21"
    assert disk.vmdisk_uuid == "5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13"
    assert (disk.slot, disk.size_bytes, disk.container_uuid) == (Slot("scsi", 0), 42949672960, "c83f5d12")
    assert disk.source_vmdisk_uuid == "41c7d09e"
    assert [disk.kind for disk in vm.disks] == [DiskKind.CDROM, DiskKind.DISK, DiskKind.VOLUME_GROUP]
    assert vm.volume_groups()[0].volume_group_uuid == "44"
    assert vm.nics[0].mac_address == "50:6b:8d:11:22:33"
    assert vm.spec["v3"] is V3_VM
    assert vm.spec["v2"] is V2_VM


def test_a_volume_group_is_not_shown_twice_when_both_interfaces_list_it():
    group = {"disk_address": {"device_bus": "scsi", "device_index": 2, "volume_group_uuid": "44"}}
    vm = inventory.join(V3_VM, {**V2_VM, "vm_disk_info": [*V2_VM["vm_disk_info"], group]}, None)
    assert len(vm.volume_groups()) == 1


def test_centrals_categories_win_over_the_elements():
    central = {"metadata": {"uuid": "x", "categories_mapping": {"Tier": ["1", "2"]}}}
    vm = inventory.join(V3_VM, V2_VM, central)
    assert vm.categories == {"Tier": ("1", "2")}
    assert vm.spec["central"] is central


def test_a_v2_answer_without_disks_never_means_that_there_are_none():
    assert "9d20b6f4" in inventory.disagreement(V3_VM, {**V2_VM, "vm_disk_info": []})
    assert inventory.disagreement(V3_VM, V2_VM) == ""


def test_two_sizes_for_a_disk_are_a_disagreement():
    grown = {**V2_VM, "vm_disk_info": [{**V2_VM["vm_disk_info"][0], "size": 1}]}
    assert inventory.disagreement(V3_VM, grown)


def test_almost_nothing_is_required():
    vm = inventory.join({"metadata": {"uuid": "A"}, "status": None}, {"power_state": "OFF"}, None)
    assert (vm.uuid, vm.disks, vm.nics, vm.boot_type, vm.is_on) == ("a", (), (), "legacy", False)


SNAPSHOT: dict[str, Any] = {
    "api_version": "3.1",
    "metadata": {"kind": "vm_snapshot", "uuid": "7c0d3a52", "creation_time": "2026-01-01T00:00:00Z", "spec_version": 1},
    "spec": {
        "name": "mover-7731",
        "snapshot_type": "APPLICATION_CONSISTENT",
        "resources": {"entity_uuid": "3f6c0a4e"},
    },
    "status": {
        "state": "COMPLETE",
        "name": "mover-7731",
        "snapshot_type": "CRASH_CONSISTENT",
        "expiration_time_msecs": 1767225600000,
        "message_list": [],
        "resources": {"entity_uuid": "3f6c0a4e"},
        "snapshot_file_list": [
            {
                "file_path": "/default/.acropolis/vmdisk/5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13",
                "snapshot_file_path": (
                    "/default/.snapshot/61/440-171-8261/.acropolis/vmdisk/5A1E7C90-3c41-4d8e-9b60-2f7d81c4ae13"
                ),
            }
        ],
    },
}


def test_a_snapshot_tells_what_was_made_not_what_was_asked():
    snapshot = v3.read_snapshot(SNAPSHOT)
    assert snapshot.consistency is Consistency.CRASH
    assert snapshot.state is SnapshotState.COMPLETE
    assert snapshot.expires_at == 1767225600.0
    assert snapshot.created_at == 1767225600.0
    assert snapshot.files[0].vmdisk_uuid == "5a1e7c90-3c41-4d8e-9b60-2f7d81c4ae13"
    assert snapshot.files[0].path.startswith("/default/.snapshot/61/")


@pytest.mark.parametrize(
    ("state", "expected"),
    [("PENDING", "pending"), ("ERROR", "error"), ("complete", "complete"), ("DELETING", "pending"), (None, "pending")],
)
def test_states_of_a_snapshot(state, expected):
    found = v3.read_snapshot({"metadata": {}, "status": {"state": state, "message_list": [{"message": "why"}]}})
    assert found.state == expected
    assert found.problem == "why"


def test_a_snapshot_request_says_exactly_what_the_reference_says():
    body = v3.snapshot_body(
        snapshot_uuid="u", vm_uuid="v", name="n", consistency=Consistency.APPLICATION, expires_at=1767225600.5
    )
    assert body == {
        "api_version": "3.1",
        "metadata": {"kind": "vm_snapshot", "uuid": "u"},
        "spec": {
            "name": "n",
            "snapshot_type": "APPLICATION_CONSISTENT",
            "expiration_time_msecs": 1767225600500,
            "resources": {"entity_uuid": "v"},
        },
    }


def test_an_extension_keeps_the_spec_and_its_version():
    body = v3.extension_body(SNAPSHOT, 1767225601)
    assert body["metadata"] == {"kind": "vm_snapshot", "uuid": "7c0d3a52", "spec_version": 1}
    assert body["spec"] == {**SNAPSHOT["spec"], "expiration_time_msecs": 1767225601000}


def test_attach_bodies_name_one_slot_and_one_source():
    path = CloneSource(path="/c/.snapshot/1/x", container_uuid="k")
    assert v2.attach_body(Slot("scsi", 5), path, container_uuid=None) == {
        "vm_disks": [
            {
                "disk_address": {"device_bus": "SCSI", "device_index": 5},
                "vm_disk_clone": {"disk_address": {"ndfs_filepath": "/c/.snapshot/1/x"}},
            }
        ]
    }
    named = v2.attach_body(Slot("scsi", 5), path, container_uuid="k")["vm_disks"][0]["vm_disk_clone"]
    assert named == {"disk_address": {"ndfs_filepath": "/c/.snapshot/1/x"}, "storage_container_uuid": "k"}
    empty = v2.attach_body(Slot("scsi", 6), EmptyDisk(size_bytes=7, container_uuid="k"), container_uuid=None)
    assert empty["vm_disks"][0]["vm_disk_create"] == {"size": 7, "storage_container_uuid": "k"}
    clone = v2.attach_body(Slot("sata", 1), CloneSource(vmdisk_uuid="d"), container_uuid=None)["vm_disks"][0]
    assert clone["vm_disk_clone"] == {"disk_address": {"vmdisk_uuid": "d"}}
    assert clone["disk_address"] == {"device_bus": "SATA", "device_index": 1}


@pytest.mark.parametrize("source", [CloneSource(), CloneSource(path="/p", vmdisk_uuid="d")])
def test_a_clone_has_exactly_one_source(source):
    with pytest.raises(ValueError, match="one source"):
        v2.attach_body(Slot("scsi", 1), source, container_uuid=None)


def test_detach_goes_by_vmdisk_uuid_alone():
    assert v2.detach_body("p", "d") == {"uuid": "p", "vm_disks": [{"disk_address": {"vmdisk_uuid": "d"}}]}


def test_containers_write_numbers_as_strings():
    container = v2.read_container(
        {
            "storage_container_uuid": "K",
            "name": "default",
            "cluster_uuid": "c",
            "usage_stats": {"storage.user_free_bytes": "70", "storage.user_capacity_bytes": "100"},
        }
    )
    assert (container.uuid, container.free_bytes, container.capacity_bytes) == ("k", 70, 100)
    assert not v2.is_usable_container({"is_nutanix_managed": True})
    assert v2.is_usable_container({})


def test_clusters_tell_centrals_from_elements():
    central = {"status": {"resources": {"config": {"service_list": ["PRISM_CENTRAL"]}}}}
    element = {
        "metadata": {"uuid": "E"},
        "status": {
            "name": "pe1",
            "resources": {
                "config": {"service_list": ["AOS"], "software_map": {"NOS": {"version": "6.10"}}},
                "network": {"external_ip": "10.0.0.5"},
            },
        },
    }
    assert v3.is_central(central)
    assert not v3.is_central(element)
    cluster = v3.read_cluster(element)
    assert (cluster.uuid, cluster.version, cluster.address) == ("e", "6.10", "10.0.0.5")


@pytest.mark.parametrize(
    ("tools", "able"),
    [
        ({"state": "ENABLED", "vss_snapshot_capable": True, "is_reachable": True}, True),
        ({"state": "ENABLED", "enabled_capability_list": ["VSS_SNAPSHOT"], "is_reachable": True}, True),
        ({"state": "ENABLED", "vss_snapshot_capable": True, "is_reachable": False}, False),
        ({"state": "DISABLED", "vss_snapshot_capable": True, "is_reachable": True}, False),
        ({}, False),
    ],
)
def test_quiescing_needs_tools_that_are_on_able_and_reachable(tools, able):
    vm = {"status": {"resources": {"guest_tools": {"nutanix_guest_tools": tools}, "power_state": "ON"}}}
    assert v3.read_can_quiesce(vm) is able


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"message": "VM 0f does not exist", "detailed_message": "", "error_code": {"code": 1202}}, "code 1202"),
        ({"message_list": [{"reason": "ENTITY_NOT_FOUND", "message": "vm_snapshot 5b not found"}]}, "5b not found"),
        ({"status": "failure", "code": 400, "reason": "INVALID", "message": "smaller shape"}, "smaller shape"),
        ({"status": {"message_list": [{"message": "in the status"}]}}, "in the status"),
        ("a string", ""),
        (None, ""),
    ],
)
def test_errors_are_read_in_all_their_shapes(body, says):
    assert says in answers.message_of(body)


def test_a_v3_error_inside_a_200_counts_as_what_it_says():
    wrapped = Answer(200, {"state": "ERROR", "code": 404, "message_list": []}, True, {})
    assert answers.effective_status(wrapped) == 404
    busy = Answer(400, {"message_list": [{"reason": "TOO_MANY_REQUESTS", "message": ""}]}, True, {})
    assert answers.passing_trouble(busy) == "429"
    conflict = Answer(422, {"message_list": [{"reason": "CONCURRENT_REQUESTS_NOT_ALLOWED"}]}, True, {})
    assert answers.effective_status(conflict) == 409


@pytest.mark.parametrize(
    ("vm", "is_on", "settled", "shown"),
    [
        ({"power_state": "on"}, True, True, "on"),
        ({"power_state": "kMigrating"}, True, True, "migrating"),
        ({"power_state": "off", "host_uuid": "h"}, False, False, "off"),
        ({"power_state": "powering_off"}, True, None, "powering off"),
        ({"power_state": "kPoweringOff"}, True, None, "powering off"),
        ({"power_state": "kPoweringOn"}, True, None, "powering on"),
        ({"power_state": "shutting_down"}, True, None, "shutting down"),
        ({"power_state": "suspended"}, True, None, "suspended"),
        ({"power_state": "brand_new"}, True, None, "brandnew"),
        ({"power_state": "unknown", "host_uuid": "h"}, True, None, "unknown"),
        ({"power_state": "unknown"}, True, None, "unknown"),
        ({"host_uuid": "h"}, True, True, "on"),
        ({"power_state": None, "host_uuid": None}, False, False, "unknown"),
    ],
)
def test_only_a_vm_that_is_off_for_certain_is_off(vm, is_on, settled, shown):
    assert (v2.read_is_on(vm), v2.read_settled_power(vm), v2.read_power(vm)) == (is_on, settled, shown)


def test_reading_is_lenient():
    odd: dict[str, Any] = {"a": None, "n": "12", "f": 1.9, "t": True, "l": [1, {"x": 1}, "s"], "s": "one"}
    assert reading.text(odd, "a", "b") == ""
    assert reading.number(odd, "n") == 12
    assert reading.number(odd, "f") == 1
    assert reading.number(odd, "t") == 0
    assert reading.flag(odd, "n") is False
    assert list(reading.items(odd, "l")) == [{"x": 1}]
    assert reading.strings(odd, "l") == ("s",)
    words = {"inner": "kError", "plain": "kvm", "lower": "Succeeded"}
    assert [reading.word(words, name) for name in words] == ["ERROR", "KVM", "SUCCEEDED"]
    assert reading.strings(odd, "s") == ("one",)
    assert reading.members(odd, "l") == {}
