"""The lab's VMs: created, declaratively put, deleted, and what an administrator does."""

from __future__ import annotations

import pytest

from mover.errors import UsageError
from mover.lab.server import DiskSpec, VmSpec
from tests.support.rawprism import EMPTY, MIB, attach, empty, serving, slot_of


@pytest.fixture
async def both(tmp_path):
    async with serving(tmp_path) as (lab, prism):
        yield lab, prism


async def v3_body(prism, name, **changes):
    """An intent made of a VM's own spec, as a restore does it."""
    shown = await prism.ok("GET", f"v3/vms/{prism.lab.vms[name].uuid}")
    spec = shown["spec"] | {"name": f"{name}-restored"}
    resources = {**spec["resources"], "disk_list": [], "power_state": "OFF", **changes}
    for nic in resources["nic_list"]:
        nic.pop("uuid", None)
        nic.pop("mac_address", None)
    return {"metadata": {"kind": "vm"}, "spec": {**spec, "resources": resources}}


async def test_v3_creates_a_vm_from_a_saved_spec_with_clones(both):
    lab, prism = both
    source = lab.disk("web01")
    disk = {
        "device_properties": {"device_type": "DISK", "disk_address": {"adapter_type": "SCSI", "device_index": 3}},
        "data_source_reference": {"kind": "vm_disk", "uuid": source.device_uuid},
    }
    answer = await prism.ok("POST", "v3/vms", await v3_body(prism, "web01", disk_list=[disk]))
    await lab.settle()
    made = lab.disk("web01-restored", "scsi.3")
    assert answer["status"]["state"] == "PENDING"
    assert made.size_bytes == source.size_bytes
    assert lab.disk_path("web01-restored", "scsi.3").read_bytes() == lab.disk_path("web01").read_bytes()
    assert not lab.vms["web01-restored"].is_on
    macs = [vm.nics[0].mac_address for vm in lab.vms.values()]
    assert len(macs) == len(set(macs))


async def test_v3_creation_is_idempotent_by_uuid(both):
    lab, prism = both
    body = await v3_body(prism, "web01")
    body["metadata"]["uuid"] = await prism.new_uuid("restore")
    for _ in range(2):
        await prism.ok("POST", "v3/vms", body)
        await lab.settle()
    assert lab.vms["web01-restored"].uuid == body["metadata"]["uuid"]
    body["metadata"]["uuid"] = "7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11"
    assert await prism.refused("POST", "v3/vms", body) == 422


async def test_central_wants_the_cluster_and_knows_categories(both):
    lab, prism = both
    body = await v3_body(prism, "web01")
    body["metadata"] |= {"use_categories_mapping": True, "categories_mapping": {"Backup": ["Silver"]}}
    cluster = body["spec"].pop("cluster_reference")
    assert await prism.refused("POST", "v3/vms", body, side="central") == 422
    body["spec"]["cluster_reference"] = cluster
    await prism.ok("POST", "v3/vms", body, side="central")
    await lab.settle()
    assert lab.vms["web01-restored"].categories == {"Backup": ["Silver"]}
    body["metadata"]["categories_mapping"] = {"Backup": ["Lead"]}
    assert await prism.refused("POST", "v3/vms", body, side="central") == 422


@pytest.mark.parametrize(
    "break_it",
    [
        lambda body: body["spec"]["resources"].update(memory_size_mib="2048"),
        lambda body: body["spec"]["resources"].update(num_sockets=0),
        lambda body: body["spec"]["resources"].update(boot_config={"boot_type": "FLOPPY"}),
        lambda body: body["spec"]["resources"].update(boot_config={"boot_type": "SECURE_BOOT"}),
        lambda body: body["spec"].update(description=None),
        lambda body: body["spec"].update(surprise=1),
        lambda body: body["spec"].pop("name"),
        lambda body: body["metadata"].update(kind="vm_snapshot"),
        lambda body: body["spec"]["resources"]["nic_list"][0].pop("subnet_reference"),
        lambda body: body["spec"]["resources"].update(disk_list=[{"device_properties": {"device_type": "DISK"}}]),
    ],
)
async def test_v3_bodies_that_are_not_right_are_422(both, break_it):
    _, prism = both
    body = await v3_body(prism, "web01")
    break_it(body)
    assert await prism.refused("POST", "v3/vms", body) == 422


async def test_unknown_networks_and_used_macs_are_refused(both):
    lab, prism = both
    body = await v3_body(prism, "web01")
    nic = body["spec"]["resources"]["nic_list"][0]
    nic["mac_address"] = lab.vms["web01"].nics[0].mac_address
    await prism.ok("POST", "v3/vms", body)
    await lab.settle()
    assert "web01-restored" not in lab.vms
    nic["subnet_reference"]["uuid"] = lab.proxy_uuid
    assert await prism.refused("POST", "v3/vms", body) == 404


async def test_put_deletes_the_disks_that_it_does_not_list(both):
    lab, prism = both
    uuid = lab.vms["web01"].uuid
    shown = await prism.ok("GET", f"v3/vms/{uuid}")
    kept, lost = lab.disk_path("web01", "scsi.0"), lab.disk_path("web01", "scsi.1")
    body = {"metadata": shown["metadata"], "spec": shown["spec"]}
    del body["spec"]["resources"]["disk_list"][1]
    await prism.ok("PUT", f"v3/vms/{uuid}", body)
    await lab.settle()
    assert kept.exists()
    assert not lost.exists()
    assert [disk.label for disk in lab.vms["web01"].disks] == ["scsi.0", "ide.0"]
    assert await prism.refused("PUT", f"v3/vms/{uuid}", body) == 409


async def test_put_adds_grows_renames_and_powers(both):
    lab, prism = both
    uuid = lab.vms["web01"].uuid
    shown = await prism.ok("GET", f"v3/vms/{uuid}")
    spec = shown["spec"] | {"name": "renamed"}
    resources = spec["resources"]
    resources["disk_list"][0]["disk_size_bytes"] = 16 * MIB
    resources["disk_list"].append({"disk_size_mib": 1, "device_properties": {"device_type": "DISK"}})
    resources["power_state"] = "OFF"
    await prism.ok("PUT", f"v3/vms/{uuid}", {"metadata": shown["metadata"], "spec": spec})
    await lab.settle()
    vm = lab.vms["renamed"]
    assert [(disk.label, disk.size_bytes) for disk in vm.disks][::3] == [("scsi.0", 16 * MIB), ("scsi.2", MIB)]
    assert not vm.is_on
    assert vm.spec_version > shown["metadata"]["spec_version"]


async def test_v2_creates_changes_and_deletes_a_vm(both):
    lab, prism = both
    network = next(iter(lab.state.networks))
    uuid = "7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11"
    body = {
        "uuid": uuid,
        "name": "restored",
        "memory_mb": 1024,
        "num_vcpus": 2,
        "num_cores_per_vcpu": 2,
        "boot": {"uefi_boot": True},
        "affinity": {"policy": "AFFINITY"},
        "vm_disks": [EMPTY],
        "vm_nics": [{"network_uuid": network, "is_connected": False}],
    }
    for _ in range(2):
        task = await prism.v2("POST", "vms", body)
        assert task["entity_list"][0]["entity_id"] == uuid
    shown = await prism.vm(uuid)
    assert shown["power_state"] == "off"
    assert shown["boot"]["uefi_boot"]
    assert shown["vm_disk_info"][0]["is_empty"]
    assert not shown["vm_nics"][0]["is_connected"]
    boot = {"boot": {"disk_address": {"device_bus": "SCSI", "device_index": 0}}, "memory_mb": 2048}
    await prism.v2("PUT", f"vms/{uuid}/", boot)
    shown = await prism.vm(uuid)
    assert shown["memory_mb"] == 2048
    assert shown["boot"]["disk_address"] == {"device_bus": "scsi", "device_index": 0}
    for _ in range(2):
        assert (await prism.v2("DELETE", f"vms/{uuid}/"))["progress_status"] == "Succeeded"
    assert await prism.refused("GET", f"v2.0/vms/{uuid}") == 404


async def test_v2_needs_its_three_members_and_keeps_its_timestamps(both):
    lab, prism = both
    assert await prism.refused("POST", "v2.0/vms", {"name": "x", "memory_mb": 1}) == 422
    vm = lab.vms["web01"]
    path = f"v2.0/vms/{vm.uuid}/set_power_state"
    stale = {"transition": "OFF", "vm_logical_timestamp": vm.logical_timestamp + 5}
    assert await prism.refused("POST", path, stale) == 409


async def test_deleting_a_vm_deletes_its_disks(both):
    lab, prism = both
    path = lab.disk_path("web01")
    await prism.ok("DELETE", f"v3/vms/{lab.vms['web01'].uuid}")
    await lab.settle()
    assert not path.exists()
    assert "web01" not in lab.vms


async def test_q35_has_no_ide(tmp_path):
    vms = (VmSpec(name="new", disks=(DiskSpec(size_bytes=MIB), DiskSpec(kind="CDROM")), machine_type="Q35"),)
    async with serving(tmp_path, vms=vms) as (lab, prism):
        assert [disk.label for disk in lab.vms["new"].disks] == ["scsi.0", "sata.0"]
        await lab.administrator("power", vm="new", on=False)
        task = await attach(prism, {**empty(lab), "disk_address": {"device_bus": "IDE"}}, lab.vms["new"].uuid)
        assert "no IDE" in task["meta_response"]["error_detail"]


# --- administrators -------------------------------------------------------------------------------


async def test_what_administrators_do(both):
    lab, prism = both
    before = lab.disk("web01")
    await lab.administrator("replace_disk", vm="web01", slot="scsi.0")
    after = lab.disk("web01")
    assert (before.size_bytes, before.label) == (after.size_bytes, after.label)
    assert before.vmdisk_uuid != after.vmdisk_uuid
    await lab.administrator("add_disk", vm="web01", size_bytes=MIB)
    await lab.administrator("remove_disk", vm="web01", slot="scsi.1")
    assert [disk.label for disk in lab.vms["web01"].disks if disk.kind == "DISK"] == ["scsi.0", "scsi.2"]
    await lab.administrator("steal_slot", index=9)
    assert slot_of(lab, 9).vmdisk_uuid in lab.plugged()
    made = await prism.snapshot("web01")
    await lab.administrator("delete_snapshot", vm="web01")
    assert await prism.refused("GET", f"v3/vm_snapshots/{made['metadata']['uuid']}") == 404
    await lab.administrator("container_free", name="default", free_bytes=5)
    assert lab.state.container_by_name("default").free_bytes == 5
    await lab.administrator("protect", vm="web01", protection_type="RULE_PROTECTED")
    await lab.administrator("rename_vm", vm="web01", name="web02")
    await lab.administrator("delete_vm", vm="web02")
    assert "web02" not in lab.vms


@pytest.mark.parametrize(
    "wish",
    [
        {"action": "dance"},
        {"action": "delete_vm", "vm": "nobody"},
        {"action": "grow_disk", "vm": "web01", "slot": "scsi.99"},
    ],
)
async def test_administrators_are_told_what_is_not_there(both, wish):
    lab, _ = both
    with pytest.raises(UsageError):
        await lab.administrator(**wish)
