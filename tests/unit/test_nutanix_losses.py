"""What a restored VM lacks is told, member by member, whatever made it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mover.hypervisor.nutanix import losses, rebuild
from mover.hypervisor.protocol import NicMode, VmRequest

NIC = {
    "mac_address": "50:6b:8d:11:22:33",
    "nic_type": "NORMAL_NIC",
    "model": "VIRTIO",
    "vlan_mode": "ACCESS",
    "trunked_vlan_list": [],
    "num_queues": 1,
    "is_connected": True,
    "subnet_reference": {"kind": "subnet", "uuid": "c1", "name": "vlan10"},
    "ip_endpoint_list": [],
}
CDROM = {"device_properties": {"device_type": "CDROM", "disk_address": {"adapter_type": "IDE", "device_index": 0}}}
DISK = {"device_properties": {"device_type": "DISK", "disk_address": {"adapter_type": "SCSI", "device_index": 1}}}
PLAIN: dict[str, Any] = {
    "num_sockets": 2,
    "memory_size_mib": 4096,
    "machine_type": "PC",
    "boot_config": {"boot_type": "LEGACY"},
    "nic_list": [NIC],
    "disk_list": [CDROM, DISK],
}


def entity(resources: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"uuid": "u"}, "spec": spec, "status": {"name": "web01", "resources": resources}}


def told(saved: dict[str, Any], shown: dict[str, Any], *, mode: NicMode = NicMode.KEEP, **views: Any) -> list[str]:
    request = VmRequest("new", {"v3": entity(saved), **views}, mode, {}, "restored")
    return list(losses.lost(entity(shown), request))


def test_what_came_back_alike_is_not_spoken_of():
    assert told(PLAIN, copy.deepcopy(PLAIN)) == []


def test_absence_and_case_are_no_difference():
    sparse = {**PLAIN, "num_threads_per_core": 1, "vnuma_config": {"num_vnuma_nodes": 0}, "is_agent_vm": False}
    assert told(sparse, {**PLAIN, "machine_type": "pc", "nic_list": [{**NIC, "model": "virtio"}]}) == []


CARRIED_BY_V3 = {
    "num_threads_per_core": 2,
    "machine_type": "Q35",
    "hardware_clock_timezone": "Europe/Vienna",
    "is_vcpu_hard_pinned": True,
    "vga_console_enabled": False,
    "hardware_virtualization_enabled": True,
    "is_agent_vm": True,
    "enable_cpu_passthrough": True,
    "disable_branding": True,
    "vnuma_config": {"num_vnuma_nodes": 2},
    "power_state_mechanism": {"mechanism": "ACPI"},
    "serial_port_list": [{"index": 1, "is_connected": True}],
}
CARRIED_BY_NONE = {
    "storage_config": {"flash_mode": "ENABLED"},
    "guest_tools": {"nutanix_guest_tools": {"state": "ENABLED"}},
    "gpu_list": [{"device_id": 7}],
    "guest_customization": {"cloud_init": {"user_data": "x"}},
    "since_aos_9": {"is_new": True},
}
NICS = {
    "nic_type": "DIRECT_NIC",
    "model": "E1000",
    "vlan_mode": "TRUNKED",
    "trunked_vlan_list": [10, 20],
    "num_queues": 4,
    "network_function_chain_reference": {"uuid": "f"},
    "since_aos_9": "x",
}


@pytest.mark.parametrize("name", [*CARRIED_BY_V3, *CARRIED_BY_NONE])
def test_each_member_that_is_lost_is_told_once(name):
    value = {**CARRIED_BY_V3, **CARRIED_BY_NONE}[name]
    assert len(told({**PLAIN, name: value}, PLAIN)) == 1
    if name in CARRIED_BY_V3:
        assert told({**PLAIN, name: value}, {**PLAIN, name: value}) == []


@pytest.mark.parametrize("name", NICS)
def test_a_card_of_another_kind_is_told(name):
    saved = {**PLAIN, "nic_list": [{**NIC, name: NICS[name]}, NIC]}
    [warning] = told(saved, {**PLAIN, "nic_list": [NIC, NIC]})
    assert name in warning
    turned = {**saved, "nic_list": saved["nic_list"][::-1]}
    assert told(saved, turned) == []


def test_a_card_that_is_missing_or_disconnected_is_told_unless_it_was_asked_for():
    assert "network card" in told(PLAIN, {**PLAIN, "nic_list": []})[0]
    off = {**PLAIN, "nic_list": [{**NIC, "is_connected": False}]}
    assert "is_connected" not in str(told(off, off))
    assert len(told(PLAIN, off)) == 1
    assert told(PLAIN, off, mode=NicMode.DISCONNECTED) == []


def test_a_second_fixed_address_of_a_card_that_kept_its_mac_is_told():
    ends = [
        {"ip": ip, "type": kind} for ip, kind in (("1.1.1.1", "ASSIGNED"), ("2.2.2.2", "ASSIGNED"), ("3", "LEARNED"))
    ]
    saved = {**PLAIN, "nic_list": [{**NIC, "ip_endpoint_list": ends}]}
    shown = {**PLAIN, "nic_list": [{**NIC, "ip_endpoint_list": ends[:1]}]}
    [warning] = told(saved, shown)
    assert "2.2.2.2" in warning
    assert "1.1.1.1" not in warning


def test_drives_and_disks_lose_what_an_attach_cannot_say():
    full, fast = {**CDROM, "disk_size_bytes": 4096}, {**DISK, "storage_config": {"flash_mode": "ENABLED"}}
    assert told({**PLAIN, "disk_list": [full]}, PLAIN) == ["Its CD-ROM drive ide.0 comes back empty."]
    assert "flash mode" in told({**PLAIN, "disk_list": [fast]}, PLAIN)[0]
    assert "ide.0 is not made" in told(PLAIN, {**PLAIN, "disk_list": []})[0]
    emulated = {"disk_address": {"device_bus": "scsi", "device_index": 1}, "is_scsi_passthrough": False}
    assert "scsi.1 was an emulated one" in told(PLAIN, PLAIN, v2={"vm_disk_info": [emulated]})[0]


def test_what_only_v2_or_a_central_tells_is_told():
    by_v2 = {"memory_reservation_mb": 512, "vm_features": {"AGENT_VM": True, "NEW_THING": True}, "affinity": {"x": [1]}}
    words = " ".join(told(PLAIN, PLAIN, v2=by_v2))
    assert all(word in words for word in ("reserved memory", "NEW_THING", "affinity"))
    assert "AGENT_VM" not in words
    central = {"metadata": {"project_reference": {"name": "shop"}}}
    assert "project shop" in told(PLAIN, PLAIN, central=central)[0]


def test_a_boot_from_the_network_and_an_order_are_told():
    boot = {"boot_type": "LEGACY", "boot_device": {"mac_address": "50:aa"}, "boot_device_order_list": ["NETWORK"]}
    words = " ".join(told({**PLAIN, "boot_config": boot}, PLAIN))
    assert "50:AA" in words
    assert "NETWORK" in words


def described(words):
    return VmRequest("new", {"v3": {**entity(PLAIN), "spec": {"description": words}}}, NicMode.KEEP, {}, "mine")


def test_a_description_comes_back_behind_ours():
    assert rebuild.description_of(described("the shop")) == "mine. the shop"
    assert rebuild.description_of(described("")) == "mine"
    assert list(losses.lost(entity(PLAIN), described("the shop"))) == []


def test_a_description_that_is_too_long_for_both_is_kept_in_the_report():
    long = "x" * 998
    assert len(rebuild.description_of(described(long))) == 1000
    assert any(long in warning for warning in losses.lost(entity(PLAIN), described(long)))


def test_what_is_set_after_the_disks_says_again_what_was_set_in_boot():
    boot = {
        "boot_type": "LEGACY",
        "boot_device": {"disk_address": {"adapter_type": "SCSI", "device_index": 1}},
        "boot_device_order_list": ["CDROM", "NETWORK"],
    }
    saved = {**PLAIN, "boot_config": boot, "hardware_virtualization_enabled": True}
    later = list(rebuild.later_bodies({"v3": entity(saved), "v2": {"ha_priority": -1}}))
    bodies = {one.words: one.body for one in later}
    assert bodies == {
        "boot disk scsi.1": {
            "boot": {
                "boot_device_order": ["CDROM", "NIC"],
                "hardware_virtualization": True,
                "boot_device_type": "DISK",
                "disk_address": {"device_bus": "SCSI", "device_index": 1},
            }
        },
        "HA priority -1": {"ha_priority": -1},
    }
    assert [len(list(one.bodies())) for one in later] == [2, 1]
    assert list(rebuild.later_bodies({"v3": entity(PLAIN), "v2": {"ha_priority": 0}})) == []


def test_every_member_of_a_v3_body_is_one_whose_loss_would_be_told():
    """So that a member which ``create_body`` learns to carry is not forgotten here."""
    saved = {**PLAIN, **CARRIED_BY_V3, "boot_config": {"boot_type": "UEFI"}}
    body = rebuild.create_body(
        VmRequest("new", {"v3": entity(saved)}, NicMode.KEEP, {}),
        vm_uuid="u",
        cluster_uuid="c",
        networks={"c1": "vlan10"},
        macs_in_use={},
        with_vtpm=False,
        categories={},
    )
    carried = body["spec"]["resources"].keys() - {"power_state"}
    assert set(CARRIED_BY_V3) <= carried
    alike = told(saved, saved)
    for name in carried:
        lacking = told(saved, {key: value for key, value in saved.items() if key != name})
        assert set(lacking) > set(alike), name


def test_a_network_that_was_mapped_and_no_card_is_in_is_told():
    def said(networks):
        return list(losses.lost(entity(PLAIN), VmRequest("new", {"v3": entity(PLAIN)}, NicMode.KEEP, networks, "")))

    assert said({"vlan10": "vlan20"}) == said({"c1": "c2"}) == []
    assert said({"vlan1O": "vlan20"}) == [
        "--network vlan1O=vlan20 changed nothing: no network card was in vlan1O (they were in: vlan10)."
    ]
