"""Backups over fakes: what is read and why, and what is written of it."""

from __future__ import annotations

import dataclasses

import pytest

from mover.errors import (
    ConsistencyDowngraded,
    SnapshotIncomplete,
    UsageError,
)
from mover.hypervisor.protocol import ChangedRegions
from mover.metrics import REGISTRY, VM_CONSISTENCY, VM_FULL_REASON, VM_LAST_SUCCESS, VM_UNPROTECTED_VGS
from mover.model.machine import Consistency, Disk, DiskKind, Slot
from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.operations.gauges import Standing
from mover.operations.reconcile import INTENT_LIFE_S
from tests.support.world import BLOCK, TWO_DISKS, world


@pytest.fixture
async def w(tmp_path):
    async with world(tmp_path) as made:
        yield made


def modes(report):
    return {row["disk"]: (row["mode"], row["reason"]) for row in report["disks"]}


def full_reasons(vm):
    """The reasons that the metric gives now."""
    samples = [sample for metric in VM_FULL_REASON.collect() for sample in metric.samples]
    return {s.labels["reason"] for s in samples if s.labels["vm"] == vm and s.value == 1}


async def test_a_full_then_an_incremental_hold_what_the_disks_held(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS, seed=1)
    before = w.hypervisor.bytes_of(vm, "scsi.0")
    first = await w.backup(vm)
    w.clock.elapsed += 60
    w.hypervisor.write(vm, "scsi.0", BLOCK + 10, b"changed")
    after = w.hypervisor.bytes_of(vm, "scsi.0")
    second = await w.backup(vm)
    assert modes(first) == {"scsi.0": ("full", "no base"), "scsi.1": ("full", "no base")}
    assert modes(second)["scsi.0"] == ("incremental", f"changes since {first['point'][:8]}")
    assert await w.disk_bytes(first, "scsi.0") == before
    assert await w.disk_bytes(second, "scsi.0") == after
    assert await w.disk_bytes(second, "scsi.1") == w.hypervisor.bytes_of(vm, "scsi.1")
    w.assert_only_base()


async def test_the_manifest_says_what_was_done(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS, boot_type="uefi", has_vtpm=True, is_protected_elsewhere=True)
    group = Disk("g1", Slot("scsi", 9), DiskKind.VOLUME_GROUP, volume_group_uuid="vg-1")
    vm = w.hypervisor.put(dataclasses.replace(vm, disks=(*vm.disks, group)))
    report = await w.backup(vm)
    point = await w.node.repository.load(report["point"])
    assert point.vm_spec == vm.spec
    assert point.vm_reading["name"] == "web"
    assert point.is_base
    assert point.snapshot_uuid in w.hypervisor.state.snapshots
    assert [str(other.slot) for other in point.others] == ["scsi.9"]
    words = " ".join(point.warnings)
    assert all(word in words for word in ("volume group in scsi.9", "UEFI", "vTPM", "protection policy"))
    assert REGISTRY.get_sample_value("mover_vm_unprotected_volume_groups", {"vm": "web"}) == 1
    assert REGISTRY.get_sample_value("mover_vm_last_success_timestamp_seconds", {"vm": "web"}) == point.created_at


async def test_the_former_base_goes_when_the_new_one_is_committed(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    first = await w.backup(vm)
    w.clock.elapsed += 60
    second = await w.backup(vm)
    base = (await w.node.repository.load(second["point"])).snapshot_uuid
    assert list(w.hypervisor.state.snapshots) == [base]
    assert [entry.identity for entry in await w.node.ledger.open_entries()] == [base]
    assert (await w.node.repository.load(first["point"])).snapshot_uuid != base


async def test_without_keep_base_the_former_base_stays_valid(w):
    vm = w.hypervisor.add_vm("web", [2 * BLOCK])
    first = await w.backup(vm)
    w.clock.elapsed += 60
    await w.backup(vm, keep_base=False)
    w.assert_only_base()
    w.clock.elapsed += 60
    third = await w.backup(vm)
    assert modes(third)["scsi.0"] == ("incremental", f"changes since {first['point'][:8]}")


async def test_reasons_for_a_full(w):
    vm = w.hypervisor.add_vm("web", [2 * BLOCK] * 5)
    await w.backup(vm)
    w.clock.elapsed += 60
    w.hypervisor.change_disk(vm, "scsi.0", size_bytes=3 * BLOCK)
    w.hypervisor.change_disk(vm, "scsi.1", vmdisk_uuid="11111111-0000-4000-8000-000000000000")
    w.hypervisor.change_disk(vm, "scsi.2", size_bytes=BLOCK)
    w.hypervisor.change_disk(vm, "scsi.3", device_uuid="22222222-0000-4000-8000-000000000000")
    grown = w.hypervisor.bytes_of(vm, "scsi.0")
    second = await w.backup(vm)
    found = modes(second)
    assert found["scsi.0"][0] == "incremental"
    assert "grown by 256 KiB" in found["scsi.0"][1]
    assert found["scsi.1"] == ("full", "the disk was replaced or moved")
    assert found["scsi.2"] == ("full", "shrunk from 512 KiB")
    assert found["scsi.3"] == ("full", "new disk")
    assert found["scsi.4"][0] == "incremental"
    assert await w.disk_bytes(second, "scsi.0") == grown
    w.clock.elapsed += 60
    assert modes(await w.backup(vm, full=True))["scsi.4"] == ("full", "asked for")
    w.clock.elapsed += 3600
    assert modes(await w.backup(vm, full_every_s=60.0))["scsi.4"] == ("full", "last full is older than 1:00")


async def test_a_full_of_one_disk_puts_off_no_other_disks_full(w):
    vm = w.hypervisor.add_vm("web", [BLOCK, BLOCK])
    await w.backup(vm)
    w.clock.elapsed += 40
    w.hypervisor.change_disk(vm, "scsi.1", vmdisk_uuid="11111111-0000-4000-8000-000000000000")
    found = modes(await w.backup(vm, full_every_s=60.0))
    assert (found["scsi.0"][0], found["scsi.1"][0]) == ("incremental", "full")
    w.clock.elapsed += 40
    found = modes(await w.backup(vm, full_every_s=60.0))
    assert found["scsi.0"] == ("full", "last full is older than 1:00")
    assert found["scsi.1"][0] == "incremental"


async def test_a_full_that_was_forgotten_still_tells_when_the_next_is_due(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    full = await w.backup(vm)
    w.clock.elapsed += 40
    assert modes(await w.backup(vm, full_every_s=60.0))["scsi.0"][0] == "incremental"
    await w.node.repository.delete_point(full["point"], force=True)
    w.clock.elapsed += 40
    assert modes(await w.backup(vm, full_every_s=60.0))["scsi.0"] == ("full", "last full is older than 1:00")
    w.clock.elapsed += 40
    assert modes(await w.backup(vm, full_every_s=60.0))["scsi.0"][0] == "incremental"


async def test_a_removed_disk_is_simply_not_there_any_more(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS)
    await w.backup(vm)
    w.clock.elapsed += 60
    vm = w.hypervisor.put(dataclasses.replace(vm, disks=vm.disks[:1]))
    assert list(modes(await w.backup(vm))) == ["scsi.0"]


async def test_a_base_that_expired_is_read_in_full(w):
    vm = w.hypervisor.add_vm("web", [2 * BLOCK])
    await w.backup(vm)
    w.hypervisor.state.snapshots.clear()
    w.clock.elapsed += 60
    assert full_reasons("web") == {"first"}
    assert modes(await w.backup(vm))["scsi.0"] == ("full", "the base snapshot is gone")
    assert full_reasons("web") == {"base-gone"}
    w.assert_only_base()


async def test_a_base_that_goes_just_before_the_question_is_read_in_full(w):
    vm = w.hypervisor.add_vm("web", [2 * BLOCK])
    await w.backup(vm)
    w.hypervisor.state.frozen.clear()
    w.clock.elapsed += 60
    assert modes(await w.backup(vm))["scsi.0"] == ("full", "the base snapshot is gone")


async def test_lists_of_changes_that_break_their_rules_are_not_used(w, monkeypatch):
    vm = w.hypervisor.add_vm("web", [2 * BLOCK])

    async def wrong_size(path, base_path, *, size_bytes):
        return ChangedRegions(Regions.of([], size_bytes=size_bytes), size_bytes + 1, 1)

    monkeypatch.setattr(w.hypervisor, "changed_regions", wrong_size)
    report = await w.backup(vm)
    mode, reason = modes(report)["scsi.0"]
    assert mode == "full"
    assert reason.startswith("the list of allocated regions is invalid: it speaks of")
    assert await w.disk_bytes(report, "scsi.0") == w.hypervisor.bytes_of(vm, "scsi.0")


async def test_a_list_that_was_cut_short_is_found_out(tmp_path):
    async with world(tmp_path, data__audit_full=True) as w:
        vm = w.hypervisor.add_vm("web", [6 * BLOCK], seed=3)
        await w.backup(vm)
        assert await w.node.ledger.trusts_unlisted(vm.cluster_uuid)
        w.hypervisor.write(vm, "scsi.0", 3 * BLOCK, b"unlisted change")
        w.clock.elapsed += 60
        honest = w.hypervisor._changed
        w.hypervisor._changed = lambda path, base, size: dataclasses.replace(
            honest(path, base, size), regions=Regions.of([], size_bytes=size)
        )
        report = await w.backup(vm)
        assert modes(report)["scsi.0"][0] == "full"
        assert await w.disk_bytes(report, "scsi.0") == w.hypervisor.bytes_of(vm, "scsi.0")
        assert not await w.node.ledger.trusts_unlisted(vm.cluster_uuid)
        assert REGISTRY.get_sample_value("mover_audit_mismatches_total", {"vm": "web"}) == 1


async def test_trust_is_not_earned_by_one_disk_while_another_shows_a_lie(tmp_path):
    async with world(tmp_path, data__audit_full=True, limits__disks=1) as w:
        vm = w.hypervisor.add_vm("web", [6 * BLOCK, 6 * BLOCK], seed=3)
        honest, asked = w.hypervisor._changed, []

        def lies_of_the_first(path, base, size):
            asked.append(path)
            found = honest(path, base, size)
            return dataclasses.replace(found, regions=Regions.of([], size_bytes=size)) if len(asked) == 1 else found

        w.hypervisor._changed = lies_of_the_first
        await w.backup(vm)
        assert not await w.node.ledger.trusts_unlisted(vm.cluster_uuid)


async def test_a_store_whose_lists_lag_costs_no_base(w, monkeypatch):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    w.store.learn(dataclasses.replace(w.store.traits, list_lag_s=5.0))

    async def nothing_yet(vm_uuid=None):
        return []

    with monkeypatch.context() as lagging:
        lagging.setattr(w.node.repository, "points", nothing_yet)
        await w.backup(vm)
    await w.reconcile()
    w.clock.elapsed += INTENT_LIFE_S
    await w.reconcile()
    w.assert_only_base()
    assert modes(await w.backup(vm))["scsi.0"][0] == "incremental"


async def test_metrics_of_vms_are_known_again_after_a_restart(w):
    vm = w.hypervisor.add_vm("recalled", [BLOCK])
    group = Disk("g1", Slot("scsi", 9), DiskKind.VOLUME_GROUP, volume_group_uuid="vg-1")
    w.hypervisor.put(dataclasses.replace(vm, disks=(*vm.disks, group)))
    await w.backup(vm)
    w.clock.elapsed += 60
    newest = await w.node.repository.load((await w.backup(vm))["point"])
    for gauge in (VM_LAST_SUCCESS, VM_CONSISTENCY, VM_UNPROTECTED_VGS):
        gauge.remove("recalled")
    await Standing(w.clock).recall(w.node.repository)
    names = ("last_success_timestamp_seconds", "application_consistent", "unprotected_volume_groups")
    found = [REGISTRY.get_sample_value(f"mover_vm_{name}", {"vm": "recalled"}) for name in names]
    assert found == [newest.created_at, 0, 1]


async def test_excluded_disks_are_named_and_not_read(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS)
    report = await w.backup(vm, exclude=("scsi.1",))
    assert modes(report)["scsi.1"] == ("excluded", "excluded by scsi.1")
    assert w.hypervisor.state.calls.count("attach") == 1
    point = await w.node.repository.load(report["point"])
    assert point.disks[1].mode is ReadMode.EXCLUDED
    w.clock.elapsed += 60
    assert modes(await w.backup(vm))["scsi.1"] == ("full", "was excluded before")
    with pytest.raises(UsageError, match="All disks"):
        await w.backup(vm, exclude=("scsi",))


async def test_an_unreached_consistency_fails_or_warns_as_told(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    w.hypervisor.downgrade = True
    with pytest.raises(ConsistencyDowngraded):
        await w.backup(vm, consistency=Consistency.APPLICATION)
    w.assert_only_base(0)
    report = await w.backup(vm, consistency=Consistency.APPLICATION, on_downgrade="warn")
    assert report["consistency"] == "crash"
    assert "was asked" in report["warnings"][0]


async def test_disks_that_change_while_the_vm_is_frozen_cost_another_snapshot(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    changes = iter([2 * BLOCK])

    async def grow_once(call):
        if call == "snapshot" and (size := next(changes, None)):
            w.hypervisor.change_disk(vm, "scsi.0", size_bytes=size)

    w.hypervisor.on_call = grow_once
    report = await w.backup(vm)
    assert report["disks"][0]["size_bytes"] == 2 * BLOCK
    assert w.hypervisor.state.calls.count("snapshot") == 2
    w.assert_only_base()


async def test_a_vm_that_never_stands_still_fails(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    sizes = iter(range(2, 99))

    async def grow(call):
        if call == "snapshot":
            w.hypervisor.change_disk(vm, "scsi.0", size_bytes=next(sizes) * BLOCK)

    w.hypervisor.on_call = grow
    with pytest.raises(SnapshotIncomplete, match="changed its disks"):
        await w.backup(vm)
    w.assert_only_base(0)


async def test_a_snapshot_without_a_file_of_each_disk_is_no_backup(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS)
    honest = w.hypervisor._snapshot

    def lossy(*arguments):
        made = honest(*arguments)
        lost = dataclasses.replace(made, files=made.files[:1])
        w.hypervisor.state.snapshots[made.uuid] = lost
        return lost

    w.hypervisor._snapshot = lossy
    with pytest.raises(SnapshotIncomplete, match=r"no file for disk scsi\.1"):
        await w.backup(vm)
    w.assert_only_base(0)
    assert await w.node.repository.points() == []


async def test_progress_is_told_by_disk_and_phase(w):
    await w.backup(w.hypervisor.add_vm("web", TWO_DISKS))
    phases = [(event.disk, event.phase) for event in w.events]
    assert phases[:2] == [(None, "look"), (None, "freeze")]
    for disk in ("scsi.0", "scsi.1"):
        mine = list(dict.fromkeys(phase for name, phase in phases if name == disk))
        assert mine == ["ask", "attach", "copy", "detach", "done"]
    last = [event for event in w.events if event.disk == "scsi.0" and event.phase == "copy"][-1]
    assert last.done_bytes == last.planned_bytes == TWO_DISKS[0]
    assert last.figures["read"] == TWO_DISKS[0]
