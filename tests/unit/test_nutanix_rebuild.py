"""A saved VM spec → the body that makes it anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mover.errors import RequestRefused
from mover.hypervisor.nutanix import rebuild
from mover.hypervisor.protocol import NicMode, VmRequest
from mover.model.machine import Slot
from tests.unit.test_nutanix_parsers import V2_VM, V3_VM

MAC = "50:6b:8d:11:22:33"
VENDOR = Path(__file__).resolve().parents[2].parent / "shared/reference/vendor/v3.json"


def request(spec: dict[str, Any] | None = None, **changes: Any) -> VmRequest:
    saved = {"v3": V3_VM, "v2": V2_VM} if spec is None else spec
    values: dict[str, Any] = {"nic_mode": NicMode.KEEP, "network_map": {}, "description": "restored", **changes}
    return VmRequest(name="web01-restored", spec=saved, **values)


def body(asked: VmRequest, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "vm_uuid": "u",
        "cluster_uuid": "c",
        "networks": {"c1": "vlan10", "n2": "vlan20"},
        "macs_in_use": {},
        "with_vtpm": True,
        "categories": {},
        **changes,
    }
    return rebuild.create_body(asked, **values)


def with_resources(**changes: Any) -> dict[str, Any]:
    resources = {**V3_VM["status"]["resources"], **changes}
    return {"v3": {**V3_VM, "status": {**V3_VM["status"], "resources": resources}}}


def test_the_example_comes_back_off_and_without_data_disks():
    made = body(request())
    resources = made["spec"]["resources"]
    assert made["metadata"] == {"kind": "vm", "uuid": "u"}
    assert made["spec"]["name"] == "web01-restored"
    assert made["spec"]["cluster_reference"] == {"kind": "cluster", "uuid": "c"}
    assert resources["power_state"] == "OFF"
    assert (resources["num_sockets"], resources["memory_size_mib"], resources["machine_type"]) == (2, 4096, "Q35")
    assert resources["boot_config"] == {"boot_type": "UEFI"}
    assert resources["vtpm_config"] == {"vtpm_enabled": True}
    assert resources["disk_list"] == [
        {"device_properties": {"device_type": "CDROM", "disk_address": {"adapter_type": "IDE", "device_index": 0}}}
    ]
    assert resources["nic_list"] == [
        {
            "is_connected": True,
            "subnet_reference": {"kind": "subnet", "uuid": "c1"},
            "mac_address": MAC,
            "ip_endpoint_list": [{"ip": "192.0.2.10", "type": "ASSIGNED"}],
        }
    ]


def test_members_of_another_build_and_nulls_do_not_come_back_at_any_depth():
    mechanism = {"mechanism": "HARD", "guest_transition_config": {"enable_script_exec": None, "since": 7}, "since": 7}
    serial = [{"index": 0, "is_connected": True, "since": 7}]
    drive = {"adapter_type": "SATA", "device_index": 1, "is_hot": None, "since": 7}
    cdrom = {"device_properties": {"device_type": "CDROM", "disk_address": drive, "since": 7}, "since": 7}
    saved = with_resources(
        power_state_mechanism=mechanism, vnuma_config=None, serial_port_list=serial, disk_list=[cdrom], since=7
    )
    resources = body(request(saved))["spec"]["resources"]
    assert "since" not in json.dumps(resources)
    assert "null" not in json.dumps(resources)
    assert resources["power_state_mechanism"] == {"mechanism": "HARD", "guest_transition_config": {}}
    assert "vnuma_config" not in resources
    assert resources["disk_list"][0]["device_properties"]["disk_address"] == {"adapter_type": "SATA", "device_index": 1}


def test_v2_says_the_same_machine_in_its_own_words():
    made = rebuild.create_body_by_v2(request(), vm_uuid="u", networks={"c1": "vlan10"}, macs_in_use={})
    assert made == {
        "uuid": "u",
        "name": "web01-restored",
        "description": "restored",
        "memory_mb": 4096,
        "num_vcpus": 2,
        "num_cores_per_vcpu": 1,
        "timezone": "UTC",
        "machine_type": "Q35",
        "boot": {"uefi_boot": True, "secure_boot": False},
        "vm_features": {"AGENT_VM": False, "VGA_CONSOLE": True},
        "vm_nics": [
            {
                "network_uuid": "c1",
                "is_connected": True,
                "mac_address": MAC,
                "request_ip": True,
                "requested_ip_address": "192.0.2.10",
            }
        ],
        "vm_disks": [{"is_cdrom": True, "is_empty": True, "disk_address": {"device_bus": "IDE", "device_index": 0}}],
    }
    legacy = with_resources(
        boot_config={"boot_type": "LEGACY", "boot_device_order_list": ["NETWORK"]}, machine_type="PC"
    )
    plain = rebuild.create_body_by_v2(request(legacy), vm_uuid="u", networks={"c1": "vlan10"}, macs_in_use={"x": "y"})
    assert plain["boot"] == {"uefi_boot": False, "secure_boot": False, "boot_device_order": ["NIC"]}
    assert "machine_type" not in plain


def test_nothing_read_only_comes_back():
    written = json.dumps(body(request()))
    for word in ("status", "spec_version", "guest_tools", "host_reference", "execution_context", "protection_type"):
        assert f'"{word}"' not in written
    assert "9d20b6f4" not in written
    assert '"5e"' not in written


def test_without_vtpm_where_a_prism_has_none():
    assert "vtpm_config" not in body(request(), with_vtpm=False)["spec"]["resources"]


def test_categories_are_written_as_a_mapping():
    made = body(request(), categories={"Backup": ["Gold", "Silver"]})
    assert made["metadata"]["use_categories_mapping"] is True
    assert made["metadata"]["categories_mapping"] == {"Backup": ["Gold", "Silver"]}


def test_new_mac_drops_addresses():
    nic = body(request(nic_mode=NicMode.NEW_MAC))["spec"]["resources"]["nic_list"][0]
    assert "mac_address" not in nic
    assert "ip_endpoint_list" not in nic
    assert nic["is_connected"] is True


def test_disconnected_keeps_a_mac_that_is_free_and_drops_one_that_is_not():
    free = body(request(nic_mode=NicMode.DISCONNECTED))["spec"]["resources"]["nic_list"][0]
    assert free["is_connected"] is False
    assert free["mac_address"] == MAC
    taken = body(request(nic_mode=NicMode.DISCONNECTED), macs_in_use={MAC: "web01"})
    nic = taken["spec"]["resources"]["nic_list"][0]
    assert nic["is_connected"] is False
    assert "mac_address" not in nic
    assert "ip_endpoint_list" not in nic


def test_keeping_a_mac_that_lives_is_refused_with_the_way_out():
    with pytest.raises(RequestRefused, match="in use by VM web01") as caught:
        body(request(), macs_in_use={MAC: "web01"})
    assert "--nics new-mac" in caught.value.remedy


def test_an_unknown_network_is_refused_with_the_way_out():
    with pytest.raises(RequestRefused, match="vlan10") as caught:
        body(request(), networks={"elsewhere": "x"})
    assert "--network c1=" in caught.value.remedy


def test_a_network_is_mapped():
    nic = body(request(network_map={"c1": "N2"}))["spec"]["resources"]["nic_list"][0]
    assert nic["subnet_reference"]["uuid"] == "n2"


def test_a_network_may_be_mapped_by_names_where_only_one_has_it():
    by_name = request(network_map={"vlan10": "vlan20"})
    assert body(by_name)["spec"]["resources"]["nic_list"][0]["subnet_reference"]["uuid"] == "n2"
    with pytest.raises(RequestRefused, match="Several networks"):
        body(by_name, networks={"n2": "vlan20", "n3": "vlan20"})


def test_a_mapping_to_nowhere_is_refused():
    with pytest.raises(RequestRefused, match="no network n9"):
        body(request(network_map={"c1": "n9"}))


def test_learnt_addresses_are_not_asked_for():
    nics = [{**V3_VM["status"]["resources"]["nic_list"][0], "ip_endpoint_list": [{"ip": "1.2.3.4", "type": "LEARNED"}]}]
    assert "ip_endpoint_list" not in body(request(with_resources(nic_list=nics)))["spec"]["resources"]["nic_list"][0]


def test_the_desired_state_wins_over_the_actual_one():
    spec = {"v3": {**V3_VM, "spec": {"name": "web01", "resources": {"memory_size_mib": 8192, "nic_list": []}}}}
    resources = body(request(spec))["spec"]["resources"]
    assert resources["memory_size_mib"] == 8192
    assert len(resources["nic_list"]) == 1


def test_the_boot_disk_of_a_legacy_vm_is_remembered():
    legacy = {"boot_device": {"disk_address": {"adapter_type": "SCSI", "device_index": 3}}}
    assert rebuild.saved_boot_slot(with_resources(boot_config=legacy)) == Slot("scsi", 3)
    assert "boot_device" not in json.dumps(body(request(with_resources(boot_config=legacy))))
    assert rebuild.saved_boot_slot(with_resources(boot_config={**legacy, "boot_type": "UEFI"})) is None
    assert rebuild.saved_boot_slot(with_resources(boot_config={})) is None


def test_categories_come_from_central_where_it_was_asked():
    assert rebuild.saved_categories({"v3": V3_VM}) == {"Backup": ["Gold"], "OS": ["Linux"]}
    central = {"metadata": {"categories_mapping": {"Tier": ["1"]}}}
    assert rebuild.saved_categories({"v3": V3_VM, "central": central}) == {"Tier": ["1"]}
    assert rebuild.saved_categories({}) == {}


@pytest.mark.parametrize("spec", [{}, {"v3": {}}, {"libvirt": "<xml>"}])
def test_a_foreign_description_is_refused(spec):
    with pytest.raises(RequestRefused, match="not one of Nutanix v3"):
        body(request(spec))


@pytest.mark.skipif(not VENDOR.exists(), reason="the vendor's definitions are not on this machine")
def test_every_member_is_one_of_the_vendors():
    definitions = json.loads(VENDOR.read_text())["definitions"]
    known = set(definitions["vm_resources"]["properties"]) | {"vtpm_config"}
    full = with_resources(serial_port_list=[{"index": 0, "is_connected": True}], is_agent_vm=False)
    resources = body(request(full))["spec"]["resources"]
    assert set(resources) <= known
    assert set(resources["nic_list"][0]) <= set(definitions["vm_nic"]["properties"])


def test_no_code_puts_a_vm_by_v3():
    """A v3 PUT deletes the disks that it does not list: it must not exist, for any VM."""
    folder = Path(rebuild.__file__).parent
    puts = [
        line.strip()
        for path in folder.glob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"[\"']PUT[\"']", line)
    ]
    assert puts
    assert all('"v3", f"vm_snapshots/' in line or '"v2", f"vms/' in line for line in puts), puts
