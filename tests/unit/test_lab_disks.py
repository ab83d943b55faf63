"""The lab's disks: attached, detached, grown, and what the Proxy VM's kernel has of them."""

from __future__ import annotations

import pytest

from tests.support.rawprism import EMPTY, MIB, attach, empty, serving, slot_of


@pytest.fixture
async def both(tmp_path):
    async with serving(tmp_path) as (lab, prism):
        yield lab, prism


def cloned(**address):
    return {"vm_disk_clone": {"disk_address": address}}


async def test_a_snapshots_file_becomes_a_device_with_its_bytes(both):
    lab, prism = both
    made = await prism.snapshot("web01")
    path = prism.path_of(made, "web01")
    task = await prism.attach(path, 5)
    disk = slot_of(lab, 5)
    shown = (await prism.vm(lab.proxy_uuid))["vm_disk_info"][-1]
    assert task["progress_status"] == "Succeeded"
    assert task["entity_list"][0]["entity_id"] == lab.proxy_uuid
    assert shown["source_disk_address"] == {"ndfs_filepath": path}
    assert shown["disk_address"]["vmdisk_uuid"] == disk.vmdisk_uuid != lab.disk("web01").vmdisk_uuid
    frozen = lab.frozen_path(made["metadata"]["uuid"], lab.disk("web01").vmdisk_uuid)
    device = lab.device_root / "dev" / lab.plugged()[disk.vmdisk_uuid]
    assert device.read_bytes() == frozen.read_bytes()
    assert disk.container_uuid == lab.disk("web01").container_uuid


async def test_the_serial_may_be_spelled_otherwise(tmp_path):
    async with serving(tmp_path, serial_spelling="dash") as (lab, _):
        uuid, name = next(iter(lab.plugged().items()))
        assert uuid.encode() in (lab.device_root / "sys/block" / name / "device/vpd_pg80").read_bytes()


async def test_a_clone_is_independent_of_its_snapshot(both):
    lab, prism = both
    made = await prism.snapshot("web01")
    await prism.attach(prism.path_of(made, "web01"), 5)
    frozen = lab.frozen_path(made["metadata"]["uuid"], lab.disk("web01").vmdisk_uuid)
    before = frozen.read_bytes()
    lab.disk_path("proxy01", "scsi.5").write_bytes(b"scribble" * 512)
    assert frozen.read_bytes() == before
    await prism.ok("DELETE", f"v3/vm_snapshots/{made['metadata']['uuid']}")
    await lab.settle()
    assert lab.disk_path("proxy01", "scsi.5").exists()


async def test_without_an_index_the_next_free_slot_is_taken(both):
    lab, prism = both
    await attach(prism, empty(lab, index=1))
    await attach(prism, empty(lab))
    assert slot_of(lab, 2).size_bytes == MIB


async def test_an_occupied_slot_fails_the_task_and_leaves_nothing(both):
    lab, prism = both
    task = await attach(prism, empty(lab, index=0))
    assert task["progress_status"] == "Failed"
    assert "already in use" in task["meta_response"]["error_detail"]
    assert len(lab.vms["proxy01"].disks) == len(lab.plugged()) == 1


async def test_slots_end(tmp_path):
    async with serving(tmp_path, scsi_slots=3) as (lab, prism):
        body = {"vm_disks": [empty(lab, index=3)]}
        assert await prism.refused("POST", f"v2.0/vms/{lab.proxy_uuid}/disks/attach", body) == 422
        await attach(prism, empty(lab))
        await attach(prism, empty(lab))
        task = await attach(prism, empty(lab))
        assert "all 3 scsi slots" in task["meta_response"]["error_detail"]


async def test_a_path_that_is_not_there_fails_the_task(both):
    _, prism = both
    task = await prism.attach("/default/.snapshot/44/1-2-8144/.acropolis/vmdisk/x", 5)
    assert task["progress_status"] == "Failed"
    assert "does not exist" in task["meta_response"]["error_detail"]


@pytest.mark.parametrize("refusal", ["sync", "sync-500", "task"])
@pytest.mark.parametrize(("rule", "with_container"), [("required", False), ("prohibited", True)])
async def test_the_container_beside_a_snapshot_path(tmp_path, refusal, rule, with_container):
    async with serving(tmp_path, attach_container=rule, attach_refusal=refusal) as (lab, prism):
        path = prism.path_of(await prism.snapshot("web01"), "web01")
        container = {"storage_container_uuid": lab.state.container_by_name("default").uuid}

        async def sent(has_container):
            clone = {"disk_address": {"ndfs_filepath": path}, **(container if has_container else {})}
            body = {"vm_disks": [{"vm_disk_clone": clone}]}
            return await prism.send("POST", f"v2.0/vms/{lab.proxy_uuid}/disks/attach", body)

        status, answer, _ = await sent(with_container)
        if refusal != "task":
            assert status == (422 if refusal == "sync" else 500)
            assert "storage_container_uuid" in answer["message"]
        else:
            assert (await prism.finished(answer["task_uuid"]))["progress_status"] == "Failed"
        status, answer, _ = await sent(not with_container)
        assert (await prism.finished(answer["task_uuid"]))["progress_status"] == "Succeeded"


@pytest.mark.parametrize(("rule", "status"), [("optional", 201), ("required", 422)])
async def test_the_bus_beside_a_snapshot_path_may_be_asked_for_and_is_always_taken(tmp_path, rule, status):
    async with serving(tmp_path, attach_source_bus=rule) as (lab, prism):
        path = prism.path_of(await prism.snapshot("web01"), "web01")
        for address, wanted in (({}, status), ({"device_bus": "SCSI"}, 201)):
            clone = {"disk_address": {"ndfs_filepath": path, **address}}
            body = {"vm_disks": [{"vm_disk_clone": clone}]}
            found, _, _ = await prism.send("POST", f"v2.0/vms/{lab.proxy_uuid}/disks/attach", body)
            assert found == wanted


@pytest.mark.parametrize(
    "disk",
    [
        {},
        cloned(vmdisk_uuid="7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11", ndfs_filepath="/x"),
        cloned(),
        {"vm_disk_clone": {"disk_address": {"ndfs_filepath": "/x"}, "minimum_size": 1}},
        {**cloned(ndfs_filepath="/x"), "vm_disk_create": {"size": 1}},
        {"vm_disk_create": {"size": 4096}},
        {"vm_disk_create": {"size": 0, "storage_container_uuid": "7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11"}},
        {"vm_disk_create": {"size": "4096"}},
        {"vm_disk_clone": {}},
        {"disk_address": {"device_bus": "FLOPPY"}},
        {"disk_address": None},
    ],
)
async def test_attach_bodies_that_say_nothing_or_too_much_are_422(both, disk):
    lab, prism = both
    path = f"v2.0/vms/{lab.proxy_uuid}/disks/attach"
    assert await prism.refused("POST", path, {"vm_disks": [disk]}) == 422


async def test_a_live_disk_is_cloned_by_vmdisk_and_grown(both):
    lab, prism = both
    source = lab.disk("web01").vmdisk_uuid
    disk = cloned(vmdisk_uuid=source)
    disk["vm_disk_clone"]["minimum_size"] = 16 * MIB
    await attach(prism, {"disk_address": {"device_bus": "SCSI", "device_index": 7}, **disk})
    made = slot_of(lab, 7)
    assert made.size_bytes == 16 * MIB == lab.disk_path("proxy01", "scsi.7").stat().st_size
    assert made.source_vmdisk_uuid == source


async def test_only_scsi_is_added_to_a_running_vm(both):
    lab, prism = both
    task = await attach(prism, EMPTY | {"disk_address": {"device_bus": "ide", "device_index": 1}})
    assert "cannot be added" in task["meta_response"]["error_detail"]
    assert len(lab.vms["proxy01"].disks) == 1


async def test_detach_deletes_and_takes_a_whole_entry_back(both):
    lab, prism = both
    await attach(prism, empty(lab, index=5))
    path = lab.disk_path("proxy01", "scsi.5")
    entry = (await prism.vm(lab.proxy_uuid))["vm_disk_info"][-1]
    body = {"uuid": lab.proxy_uuid, "vm_disks": [entry]}
    task = await prism.v2("POST", f"vms/{lab.proxy_uuid}/disks/detach", body)
    assert task["progress_status"] == "Succeeded"
    assert not path.exists()
    assert len(lab.plugged()) == 1
    again = await prism.v2("POST", f"vms/{lab.proxy_uuid}/disks/detach", body)
    assert again["progress_status"] == "Failed"


async def test_the_vmdisk_wins_over_a_wrong_slot(both):
    lab, prism = both
    await attach(prism, empty(lab, index=5))
    address = {"vmdisk_uuid": slot_of(lab, 5).vmdisk_uuid, "device_bus": "scsi", "device_index": 0}
    await prism.v2("POST", f"vms/{lab.proxy_uuid}/disks/detach", {"vm_disks": [{"disk_address": address}]})
    assert [disk.label for disk in lab.vms["proxy01"].disks] == ["scsi.0"]


async def test_detach_of_nothing_may_also_succeed(tmp_path):
    async with serving(tmp_path, detach_missing="succeed") as (lab, prism):
        address = {"vmdisk_uuid": "7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11"}
        task = await prism.v2("POST", f"vms/{lab.proxy_uuid}/disks/detach", {"vm_disks": [{"disk_address": address}]})
        assert task["progress_status"] == "Succeeded"


async def test_a_disk_grows_in_place_but_never_shrinks(both):
    lab, prism = both
    path = f"vms/{lab.proxy_uuid}/disks/update"
    await attach(prism, empty(lab, index=5))
    address = {"vmdisk_uuid": slot_of(lab, 5).vmdisk_uuid}
    for size, status in ((2 * MIB, "Succeeded"), (MIB, "Failed")):
        body = {"vm_disks": [{"disk_address": address, "vm_disk_create": {"size": size}}]}
        assert (await prism.v2("PUT", path, body))["progress_status"] == status
    assert slot_of(lab, 5).size_bytes == 2 * MIB
    name = lab.plugged()[address["vmdisk_uuid"]]
    assert int((lab.device_root / "sys/block" / name / "size").read_text()) * 512 == 2 * MIB


async def test_a_proxy_that_is_off_has_no_devices(both):
    lab, prism = both
    await attach(prism, empty(lab, index=5))
    await prism.v2("POST", f"vms/{lab.proxy_uuid}/set_power_state/", {"transition": "OFF"})
    assert not lab.plugged()
    assert (await prism.vm(lab.proxy_uuid))["power_state"] == "off"
    await prism.v2("POST", f"vms/{lab.proxy_uuid}/set_power_state/", {"transition": "ON"})
    assert len(lab.plugged()) == 2


async def test_the_node_looks_like_the_proxy_vm(both):
    lab, _ = both
    proxy = lab.vms["proxy01"]
    assert (lab.device_root / "sys/class/dmi/id/product_uuid").read_text().strip().lower() == lab.proxy_uuid
    found = {path.read_text().strip() for path in (lab.device_root / "sys/class/net").glob("*/address")}
    assert proxy.nics[0].mac_address in found
