"""The lab's snapshots and changed regions: shapes, isolation, paging, expiry, and every lie."""

from __future__ import annotations

import re

import pytest

from mover.lab.options import LabOptions
from mover.lab.regions import Query, page
from mover.lab.server import DiskSpec, VmSpec
from tests.support.rawprism import MIB, pieces, serving

PATH = re.compile(r"/default/\.snapshot/(\d\d)/\d{19}-\d{16}-(\d+)/\.acropolis/vmdisk/[0-9a-f-]{36}")


@pytest.fixture
async def both(tmp_path):
    async with serving(tmp_path) as (lab, prism):
        yield lab, prism


async def test_a_snapshot_names_each_disk_and_what_else_there_is(both):
    _, prism = both
    made = await prism.snapshot("web01", expiration_time_msecs=99_999_999_999_999)
    files = made["status"]["snapshot_file_list"]
    assert made["status"]["state"] == "COMPLETE"
    assert made["status"]["snapshot_type"] == "CRASH_CONSISTENT"
    assert made["status"]["expiration_time_msecs"] == 99_999_999_999_999
    assert len(files) == 3
    for slot in ("scsi.0", "scsi.1"):
        match = PATH.fullmatch(prism.path_of(made, "web01", slot))
        assert match[1] == f"{int(match[2]) % 100:02}"


async def test_it_is_pending_with_an_empty_list_at_first(both):
    lab, prism = both
    lab.faults.arm("task_slow", seconds=0.2)
    answer = await prism.ok("POST", "v3/vm_snapshots", prism.snapshot_body("web01"))
    assert answer["status"]["state"] == "PENDING"
    assert answer["status"]["snapshot_file_list"] == []
    assert answer["status"]["execution_context"]["task_uuid"]


async def test_only_uuids_from_idempotence_identifiers_are_taken_and_a_repeat_is_the_same(both):
    lab, prism = both
    uuid = await prism.new_uuid("job")
    assert uuid == await prism.new_uuid("job")
    first = await prism.snapshot("web01", uuid=uuid)
    again = await prism.ok("POST", "v3/vm_snapshots", prism.snapshot_body("web01", uuid=uuid))
    assert first["metadata"]["uuid"] == again["metadata"]["uuid"] == uuid
    assert len(lab.snapshots()) == 1
    body = prism.snapshot_body("web01", uuid="7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11")
    assert await prism.refused("POST", "v3/vm_snapshots", body) == 422


async def test_a_repeat_can_also_be_a_conflict(tmp_path):
    async with serving(tmp_path, repeated_uuid="conflict") as (_, prism):
        uuid = await prism.new_uuid("job")
        await prism.snapshot("web01", uuid=uuid)
        assert await prism.refused("POST", "v3/vm_snapshots", prism.snapshot_body("web01", uuid=uuid)) == 409


async def test_identifiers_are_found_and_forgotten(both):
    _, prism = both
    uuid = await prism.new_uuid("job")
    assert (await prism.ok("GET", "v3/idempotence_identifiers/job"))["uuid_list"] == [uuid]
    await prism.ok("DELETE", "v3/idempotence_identifiers/job")
    assert await prism.refused("GET", "v3/idempotence_identifiers/job") == 404
    assert await prism.refused("POST", "v3/vm_snapshots", prism.snapshot_body("web01", uuid=uuid)) == 422


async def test_names_longer_than_64_are_422_and_unknown_vms_404(both):
    _, prism = both
    assert await prism.refused("POST", "v3/vm_snapshots", prism.snapshot_body("web01", name="x" * 65)) == 422
    body = prism.snapshot_body("web01")
    body["spec"]["resources"]["entity_uuid"] = "7c0d3a52-55c4-4b0e-9d5b-3a1f6b7a9c11"
    assert await prism.refused("POST", "v3/vm_snapshots", body) == 404


async def test_regions_of_a_whole_file_tell_all_its_data(both):
    lab, prism = both
    made = await prism.snapshot("web01")
    regions = await prism.regions(prism.path_of(made, "web01"))
    frozen = lab.frozen_path(made["metadata"]["uuid"], lab.disk("web01").vmdisk_uuid)
    assert pieces(frozen, regions) == frozen.read_bytes()
    assert {kind for _, _, kind in regions} == {"REGULAR", "ZEROED"}


async def test_a_snapshot_does_not_change_and_the_difference_leads_to_the_next(both):
    lab, prism = both
    first = await prism.snapshot("web01")
    vmdisk = lab.disk("web01").vmdisk_uuid
    old_path = lab.frozen_path(first["metadata"]["uuid"], vmdisk)
    old = old_path.read_bytes()
    await lab.live("web01", 1)
    second = await prism.snapshot("web01")
    new = lab.frozen_path(second["metadata"]["uuid"], vmdisk).read_bytes()
    regions = await prism.regions(prism.path_of(second, "web01"), prism.path_of(first, "web01"))
    replayed = bytearray(old)
    for offset, length, kind in regions:
        replayed[offset : offset + length] = new[offset : offset + length] if kind == "REGULAR" else bytes(length)
    assert old != new
    assert old_path.read_bytes() == old
    assert bytes(replayed) == new
    assert sum(length for _, length, _ in regions) < len(new) // 4


async def test_no_difference_is_an_empty_list_with_the_size(both):
    _, prism = both
    one, two = await prism.snapshot("web01"), await prism.snapshot("web01")
    body = {
        "snapshot_file_path": prism.path_of(two, "web01"),
        "reference_snapshot_file_path": prism.path_of(one, "web01"),
    }
    answer = await prism.ok("POST", "v3/data/changed_regions", body)
    assert answer == {"file_size": 8 * MIB, "region_list": []}


@pytest.mark.parametrize("wishes", [{"regions_per_page": 1}, {"scan_window_bytes": 300_000}])
async def test_small_pages_and_windows_give_the_same_bytes(tmp_path, wishes):
    async with serving(tmp_path, **wishes) as (lab, prism):
        made = await prism.snapshot("web01")
        regions = await prism.regions(prism.path_of(made, "web01"))
        frozen = lab.frozen_path(made["metadata"]["uuid"], lab.disk("web01").vmdisk_uuid)
        assert pieces(frozen, regions) == frozen.read_bytes()
        assert len([call for call in lab.calls if call.operation == "v3.data.changed_regions"]) > 5


async def test_holes_may_stay_unlisted(tmp_path):
    async with serving(tmp_path, list_holes=False) as (_, prism):
        made = await prism.snapshot("web01")
        regions = await prism.regions(prism.path_of(made, "web01"))
        assert {kind for _, _, kind in regions} == {"REGULAR"}


@pytest.mark.parametrize(("way", "end"), [("null", None), ("zero", 0)])
async def test_the_end_may_be_null_or_zero(tmp_path, way, end):
    async with serving(tmp_path, last_page_says=way) as (_, prism):
        path = prism.path_of(await prism.snapshot("web01"), "web01")
        answer = await prism.ok("POST", "v3/data/changed_regions", {"snapshot_file_path": path})
    assert answer["next_offset"] == end


async def test_offsets_clip_and_next_may_lie_beyond_the_end_asked_for(both):
    _, prism = both
    path = prism.path_of(await prism.snapshot("web01"), "web01")
    body = {"snapshot_file_path": path, "start_offset": 1000, "end_offset": 5000}
    answer = await prism.ok("POST", "v3/data/changed_regions", body)
    assert answer["region_list"] == [{"offset": 1000, "length": 4000, "type": "REGULAR"}]
    assert answer["next_offset"] >= 5000
    assert await prism.refused("POST", "v3/data/changed_regions", {**body, "end_offset": 10}) == 400


def test_a_page_never_lists_a_byte_twice_nor_beyond_its_interval():
    rows = [(0, 4096, False), (8192, 4096, True), (16384, 8192, False)]
    options = LabOptions(regions_per_page=1)
    seen, start = [], 0
    while start is not None:
        answer = page(rows, Query("/x", None, start), 24576, None, options)
        seen += [(one["offset"], one["length"]) for one in answer["region_list"]]
        start = answer.get("next_offset")
    assert seen == [(0, 4096), (8192, 4096), (16384, 8192)]


async def test_what_is_no_snapshot_file_is_400_and_what_is_gone_404(both):
    lab, prism = both
    made = await prism.snapshot("web01")
    good = prism.path_of(made, "web01")
    live = (await prism.vm(lab.vms["web01"].uuid))["vm_disk_info"][0]["disk_address"]["ndfs_filepath"]
    iso = next(one["snapshot_file_path"] for one in made["status"]["snapshot_file_list"][:1])
    for path in (live, iso):
        assert await prism.refused("POST", "v3/data/changed_regions", {"snapshot_file_path": path}) == 400
    body = {"snapshot_file_path": good, "reference_snapshot_file_path": good.replace("/.snapshot/", "/.snapshot/9")}
    status, answer, _ = await prism.send("POST", "v3/data/changed_regions", body)
    assert status == 404
    assert answer["kind"] == "changed_regions"
    assert "is not valid" in answer["message_list"][0]["message"]


async def test_a_deleted_base_is_404_or_400_and_a_second_delete_404(tmp_path):
    async with serving(tmp_path, missing_base_status=400) as (_, prism):
        one, two = await prism.snapshot("web01"), await prism.snapshot("web01")
        await prism.ok("DELETE", f"v3/vm_snapshots/{one['metadata']['uuid']}")
        await prism.lab.settle()
        body = {
            "snapshot_file_path": prism.path_of(two, "web01"),
            "reference_snapshot_file_path": prism.path_of(one, "web01"),
        }
        assert await prism.refused("POST", "v3/data/changed_regions", body) == 400
        assert await prism.refused("DELETE", f"v3/vm_snapshots/{one['metadata']['uuid']}") == 404
        assert not prism.lab.frozen_path(one["metadata"]["uuid"], prism.lab.disk("web01").vmdisk_uuid).exists()


async def test_a_deleted_snapshot_may_linger(tmp_path):
    async with serving(tmp_path, deleted_snapshot_lingers_s=0.3) as (lab, prism):
        uuid = (await prism.snapshot("web01"))["metadata"]["uuid"]
        task = (await prism.ok("DELETE", f"v3/vm_snapshots/{uuid}"))["status"]["execution_context"]["task_uuid"]
        await prism.ok("POST", "v3/tasks/poll", {"task_uuid_list": [task], "poll_timeout_seconds": 0})
        assert (await prism.ok("GET", f"v3/vm_snapshots/{uuid}"))["metadata"]["uuid"] == uuid
        await lab.settle()
        assert await prism.refused("GET", f"v3/vm_snapshots/{uuid}") == 404


async def test_expiry_takes_a_snapshot_away_and_a_put_puts_it_off(both):
    lab, prism = both
    made = await prism.snapshot("web01", expiration_time_msecs=99_999_999_999_999)
    uuid = made["metadata"]["uuid"]
    spec = {**made["spec"], "expiration_time_msecs": 99_999_999_999_998}
    stale = {"metadata": {**made["metadata"], "spec_version": 7}, "spec": spec}
    assert await prism.refused("PUT", f"v3/vm_snapshots/{uuid}", stale) == 409
    await prism.ok("PUT", f"v3/vm_snapshots/{uuid}", {"metadata": made["metadata"], "spec": spec})
    await lab.settle()
    now = await prism.ok("GET", f"v3/vm_snapshots/{uuid}")
    assert now["status"]["expiration_time_msecs"] == 99_999_999_999_998
    assert now["metadata"]["spec_version"] == 1
    await lab.administrator("expire_snapshots", vm="web01")
    assert await prism.refused("GET", f"v3/vm_snapshots/{uuid}") == 404


async def test_snapshots_are_listed_by_vm(both):
    lab, prism = both
    await prism.snapshot("web01")
    await prism.snapshot("db01")
    body = {"kind": "vm_snapshot", "filter": f"entity_uuid=={lab.vms['db01'].uuid}"}
    found = await prism.ok("POST", "v3/vm_snapshots/list", body)
    assert [one["spec"]["resources"]["entity_uuid"] for one in found["entities"]] == [lab.vms["db01"].uuid]


@pytest.mark.parametrize(
    ("tools", "policy", "state", "made"),
    [
        ("vss", "degrade", "COMPLETE", "APPLICATION_CONSISTENT"),
        ("none", "degrade", "COMPLETE", "CRASH_CONSISTENT"),
        ("unreachable", "error", "ERROR", "APPLICATION_CONSISTENT"),
    ],
)
async def test_application_consistency_is_reached_degraded_or_refused(tmp_path, tools, policy, state, made):
    vms = (VmSpec(name="app", disks=(DiskSpec(size_bytes=MIB),), guest_tools=tools),)
    async with serving(tmp_path, vms=vms, quiesce_failure=policy) as (_, prism):
        snapshot = await prism.snapshot("app", snapshot_type="APPLICATION_CONSISTENT")
    assert (snapshot["status"]["state"], snapshot["status"]["snapshot_type"]) == (state, made)
    assert bool(snapshot["status"]["message_list"]) == (state == "ERROR")


async def test_a_service_vm_and_uefi_files(tmp_path):
    disk = (DiskSpec(size_bytes=MIB),)
    vms = (
        VmSpec(name="service", disks=disk, cbr_not_capable_reason="service VM"),
        VmSpec(name="uefi", disks=disk, boot_type="SECURE_BOOT", has_vtpm=True),
    )
    async with serving(tmp_path, vms=vms) as (lab, prism):
        assert (await prism.snapshot("service"))["status"]["state"] == "ERROR"
        made = await prism.snapshot("uefi")
        shown = await prism.ok("GET", f"v3/vms/{lab.vms['uefi'].uuid}")
    assert len(made["status"]["snapshot_file_list"]) == 2
    resources = shown["status"]["resources"]
    assert resources["boot_config"] == {"boot_type": "SECURE_BOOT"}
    assert resources["machine_type"] == "Q35"
    assert resources["vtpm_config"] == {"vtpm_enabled": True}


@pytest.mark.parametrize("tail_listed", [True, False])
async def test_a_grown_disk_shows_by_its_size_and_maybe_its_tail(tmp_path, tail_listed):
    async with serving(tmp_path, list_grown_tail=tail_listed) as (lab, prism):
        one = await prism.snapshot("web01")
        await lab.administrator("grow_disk", vm="web01", slot="scsi.0", size_bytes=12 * MIB)
        two = await prism.snapshot("web01")
        body = {
            "snapshot_file_path": prism.path_of(two, "web01"),
            "reference_snapshot_file_path": prism.path_of(one, "web01"),
        }
        answer = await prism.ok("POST", "v3/data/changed_regions", body)
    assert answer["file_size"] == 12 * MIB
    tail = [{"offset": 8 * MIB, "length": 4 * MIB, "type": "ZEROED"}] if tail_listed else []
    assert answer["region_list"] == tail


async def test_v2_snapshots_carry_the_vm_and_are_no_base_for_v3(both):
    lab, prism = both
    vm = lab.vms["web01"].uuid
    task = await prism.v2("POST", "snapshots/", {"snapshot_specs": [{"vm_uuid": vm, "snapshot_name": "old"}]})
    found = (await prism.ok("GET", f"v2.0/snapshots/?vm_uuid={vm}"))["entities"]
    clone = found[0]["vm_create_spec"]["vm_disks"][0]["vm_disk_clone"]
    path = clone["disk_address"]["ndfs_filepath"]
    assert task["progress_status"] == "Succeeded"
    assert re.fullmatch(r"/default/\.acropolis/snapshot/[0-9a-f-]{36}/vmdisk/[0-9a-f-]{36}", path)
    assert await prism.refused("POST", "v3/data/changed_regions", {"snapshot_file_path": path}) == 400
    source = {"vmdisk_uuid": clone["disk_address"]["vmdisk_uuid"]}
    body = {**clone, "disk_address": source}
    del body["minimum_size"]
    done = await prism.v2("POST", f"vms/{lab.proxy_uuid}/disks/attach", {"vm_disks": [{"vm_disk_clone": body}]})
    assert done["progress_status"] == "Succeeded"
    for _ in range(2):
        assert (await prism.v2("DELETE", f"snapshots/{found[0]['uuid']}"))["progress_status"] == "Succeeded"
    assert await prism.refused("GET", f"v2.0/snapshots/{found[0]['uuid']}") == 404


# --- lies -------------------------------------------------------------------------------------


async def spoiled(prism, name, **args):
    """The answers without and with a fault, of a difference between two snapshots."""
    one = await prism.snapshot("web01")
    await prism.lab.live("web01", len(prism.lab.snapshots()))
    two = await prism.snapshot("web01")
    body = {
        "snapshot_file_path": prism.path_of(two, "web01"),
        "reference_snapshot_file_path": prism.path_of(one, "web01"),
    }
    honest = await prism.ok("POST", "v3/data/changed_regions", body)
    prism.lab.faults.arm(name, operation="v3.data.changed_regions", vm="web01", disk="scsi.0", **args)
    status, lie, _ = await prism.send("POST", "v3/data/changed_regions", body)
    assert (await prism.ok("POST", "v3/data/changed_regions", body)) == honest
    return honest, lie, status


async def test_lies_about_changed_regions(both):
    _, prism = both
    honest, lie, _ = await spoiled(prism, "regions_cut_short")
    assert len(lie["region_list"]) == len(honest["region_list"]) // 2
    assert "next_offset" not in lie
    honest, lie, _ = await spoiled(prism, "regions_omit")
    assert len(honest["region_list"]) - len(lie["region_list"]) == 1
    honest, lie, _ = await spoiled(prism, "regions_say_zero")
    assert [one["offset"] for one in honest["region_list"]] == [one["offset"] for one in lie["region_list"]]
    assert [one["type"] for one in honest["region_list"]] != [one["type"] for one in lie["region_list"]]
    _, lie, _ = await spoiled(prism, "regions_wrong_size", by_bytes=-4096)
    assert lie["file_size"] == 8 * MIB - 4096


async def test_broken_answers_of_changed_regions(both):
    _, prism = both
    _, lie, _ = await spoiled(prism, "regions_beyond_end", begins_beyond=True)
    assert lie["region_list"][-1]["offset"] > lie["file_size"]
    _, lie, _ = await spoiled(prism, "regions_beyond_end")
    assert lie["region_list"][-1]["offset"] + lie["region_list"][-1]["length"] > lie["file_size"]
    _, lie, _ = await spoiled(prism, "regions_negative")
    assert lie["region_list"][-1]["offset"] < 0
    _, lie, _ = await spoiled(prism, "regions_looping")
    assert lie["next_offset"] == 0
    _, lie, _ = await spoiled(prism, "regions_text")
    assert isinstance(lie["file_size"], str)
    assert isinstance(lie["region_list"][0]["offset"], str)
    _, lie, status = await spoiled(prism, "base_gone")
    assert status == 404


async def test_odd_but_legal_answers_of_changed_regions_cover_the_same(both):
    _, prism = both

    def covered(answer):
        return {
            byte
            for one in answer["region_list"]
            if one["type"] == "REGULAR"
            for byte in range(one["offset"] // 4096, -(-(one["offset"] + one["length"]) // 4096))
        }

    honest, lie, _ = await spoiled(prism, "regions_overlapping")
    assert covered(lie) == covered(honest)
    assert len(lie["region_list"]) > len(honest["region_list"])
    honest, lie, _ = await spoiled(prism, "regions_unsorted")
    assert lie["region_list"] == honest["region_list"][::-1]
    honest, lie, _ = await spoiled(prism, "regions_unaligned")
    assert covered(lie) >= covered(honest)
    assert any(one["offset"] % 512 for one in lie["region_list"])


@pytest.mark.parametrize(
    ("fault", "state", "files"),
    [
        ("snapshot_error", "ERROR", 0),
        ("snapshot_no_files", "COMPLETE", 0),
        ("snapshot_misses_file", "COMPLETE", 2),
        ("snapshot_downgraded", "COMPLETE", 3),
    ],
)
async def test_faults_of_snapshots(both, fault, state, files):
    lab, prism = both
    armed = lab.faults.arm(fault, vm="web01")
    made = await prism.snapshot("web01")
    assert armed.fired == 1
    assert made["status"]["state"] == state
    assert len(made["status"]["snapshot_file_list"]) == files


async def test_a_snapshot_that_never_completes(both):
    lab, prism = both
    lab.faults.arm("snapshot_never_complete")
    answer = await prism.ok("POST", "v3/vm_snapshots", prism.snapshot_body("web01"))
    task = answer["status"]["execution_context"]["task_uuid"]
    polled = await prism.ok("POST", "v3/tasks/poll", {"task_uuid_list": [task], "poll_timeout_seconds": 0})
    assert polled["has_poll_timed_out"]
    shown = await prism.ok("GET", f"v3/vm_snapshots/{answer['metadata']['uuid']}")
    assert shown["status"]["state"] == "PENDING"
