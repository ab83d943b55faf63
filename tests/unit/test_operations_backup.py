"""Backups over fakes: what is read and why, what is left behind, and every refusal."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from mover.catalog.ledger import Kind
from mover.errors import (
    ConsistencyDowngraded,
    DeviceAbsent,
    DeviceFault,
    JobCancelled,
    NoFreeSlot,
    NotFound,
    ProxyUnfit,
    RequestRefused,
    SlotOccupied,
    SnapshotIncomplete,
    SpaceShort,
    StoreFull,
    UsageError,
)
from mover.hypervisor.protocol import ChangedRegions
from mover.metrics import REGISTRY, VM_CONSISTENCY, VM_FULL_REASON, VM_LAST_SUCCESS, VM_UNPROTECTED_VGS
from mover.model.machine import Consistency, Disk, DiskKind, Slot
from mover.model.point import ReadMode
from mover.model.region import Regions
from mover.operations.backup import backup_vm
from mover.operations.gauges import Standing
from mover.operations.node import ReadingNode
from mover.operations.reconcile import INTENT_LIFE_S
from mover.operations.tofile import restore_to_file
from mover.units import MIB
from tests.support.fakehypervisor import FailingDevice, How
from tests.support.faultystore import How as StoreHow
from tests.support.world import BLOCK, world

TWO_DISKS = [3 * BLOCK, BLOCK + 4096]


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


async def disk_bytes(w, report, slot):
    """What the repository holds of a disk, through a real restore to a file."""
    node = ReadingNode(w.node.settings, w.clock, w.node.repository, w.node.workers)
    path = w.node.settings.state_dir / f"{report['point']}-{slot}"
    await restore_to_file(node, report["point"], slot, path)
    return path.read_bytes()


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
    assert await disk_bytes(w, first, "scsi.0") == before
    assert await disk_bytes(w, second, "scsi.0") == after
    assert await disk_bytes(w, second, "scsi.1") == w.hypervisor.bytes_of(vm, "scsi.1")
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
    assert await disk_bytes(w, second, "scsi.0") == grown
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
    assert await disk_bytes(w, report, "scsi.0") == w.hypervisor.bytes_of(vm, "scsi.0")


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
        assert await disk_bytes(w, report, "scsi.0") == w.hypervisor.bytes_of(vm, "scsi.0")
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


async def test_a_vm_deleted_meanwhile(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])

    async def delete(call):
        if call == "snapshot":
            w.hypervisor.state.vms.pop(vm.uuid, None)

    w.hypervisor.on_call = delete
    with pytest.raises(NotFound):
        await w.backup(vm)
    w.assert_only_base(0)


async def test_refusals_before_anything_is_made(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    service = w.hypervisor.add_vm("service", [BLOCK], refusal="a controller VM")
    proxy = w.hypervisor.named("proxy")
    with pytest.raises(RequestRefused, match="a controller VM"):
        await w.backup(service)
    with pytest.raises(ProxyUnfit, match="runs in"):
        await w.backup(proxy)
    w.hypervisor.put(dataclasses.replace(proxy, cluster_uuid="elsewhere"))
    with pytest.raises(ProxyUnfit, match="another cluster"):
        await w.backup(vm)
    w.hypervisor.put(dataclasses.replace(proxy, is_on=False))
    with pytest.raises(ProxyUnfit, match="is off"):
        await w.backup(vm)
    w.hypervisor.state.vms.pop(proxy.uuid)
    with pytest.raises(ProxyUnfit, match="not on this cluster"):
        await w.backup(vm)
    assert w.hypervisor.state.snapshots == {}


async def test_room_is_looked_at_first(tmp_path):
    async with world(tmp_path, limits__container_free=MIB) as w:
        vm = w.hypervisor.add_vm("web", [BLOCK])
        w.hypervisor.state.free_bytes = MIB - 1
        with pytest.raises(SpaceShort, match="default has"):
            await w.backup(vm)
        assert w.hypervisor.state.snapshots == {}


async def test_a_full_store_is_noticed_first(tmp_path, monkeypatch):
    async with world(tmp_path, limits__store_free=MIB) as w:

        async def little():
            return 1000

        monkeypatch.setattr(w.store, "free_bytes", little)
        with pytest.raises(SpaceShort, match="store has"):
            await w.backup(w.hypervisor.add_vm("web", [BLOCK]))


async def test_no_free_slot(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    proxy = w.hypervisor.named("proxy")
    others = [Disk(f"d{n}", Slot("scsi", n), DiskKind.DISK, 512, f"v{n}") for n in range(1, 256)]
    w.hypervisor.put(dataclasses.replace(proxy, disks=(*proxy.disks, *others)))
    with pytest.raises(NoFreeSlot):
        await w.backup(vm)
    assert w.hypervisor.state.snapshots == {}


async def test_a_stolen_slot_is_given_up_for_another(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    proxy = w.hypervisor.named("proxy")

    async def steal(call):
        if call == "attach":
            w.hypervisor.on_call = None
            thief = Disk("thief", Slot("scsi", 1), DiskKind.DISK, BLOCK, "thief-disk")
            w.hypervisor.put(dataclasses.replace(proxy, disks=(*proxy.disks, thief)))

    w.hypervisor.on_call = steal
    await w.backup(vm)
    assert [disk.device_uuid for disk in w.hypervisor.named("proxy").disks][1:] == ["thief"]
    assert [entry.facts["slot"] for entry in await w.node.ledger.entries(kind=Kind.ATTACHMENT)] == ["scsi.1", "scsi.2"]


async def test_slots_that_are_always_stolen_end_in_an_error(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    for nth in (1, 1, 1):
        w.hypervisor.fail("attach", nth, How.ERROR, SlotOccupied("taken", remedy="r"))
    with pytest.raises(SlotOccupied):
        await w.backup(vm)
    w.assert_only_base(0)


async def test_a_device_that_never_comes(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS)
    w.devices.errors.append(DeviceAbsent("no device", remedy="look"))
    with pytest.raises(DeviceAbsent):
        await w.backup(vm)
    w.assert_only_base(0)
    assert await w.node.ledger.open_entries() == []


async def test_a_device_that_cannot_be_read(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS)
    w.devices.kind = FailingDevice
    with pytest.raises(DeviceFault):
        await w.backup(vm)
    w.assert_only_base(0)
    assert await w.node.repository.points() == []


async def test_cancelling_ends_in_order_and_leaves_nothing(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS)
    steps = w.steps()

    async def cancel(call):
        if call == "attach":
            steps.cancellation.wish()

    w.hypervisor.on_call = cancel
    with pytest.raises(JobCancelled) as caught:
        await w.backup(vm, steps=steps)
    assert caught.value.facts["owed"] == []
    w.assert_only_base(0)


async def test_two_backups_of_a_vm_take_turns(w):
    vm = w.hypervisor.add_vm("web", [2 * BLOCK])
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(w.backup(vm)) for _ in range(2)]
    assert {task.result()["disks"][0]["mode"] for task in tasks} == {"full", "incremental"}
    w.assert_only_base()


async def test_a_point_that_an_earlier_attempt_committed_is_the_answer(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    request = w.request(vm)
    first = await backup_vm(w.node, request.values(), w.steps())
    calls = w.hypervisor.state.calls.count("snapshot")
    second = await backup_vm(w.node, request.values(), w.steps())
    assert second == first
    assert w.hypervisor.state.calls.count("snapshot") == calls


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


class Death(BaseException):
    """As a kill: nothing is cleaned up, the job goes on later."""


async def test_a_backup_that_died_after_a_copy_finds_its_blocks_as_known(w):
    vm = w.hypervisor.add_vm("web", [4 * BLOCK], seed=9)
    request, steps = w.request(vm), w.steps()

    async def die(call):
        if call == "detach":
            w.hypervisor.on_call = None
            raise Death

    w.hypervisor.on_call = die
    with pytest.raises(Death):
        await backup_vm(w.node, request.values(), steps)
    session = steps.results["open"]
    stored = [name for name in w.store.inner._objects if name.startswith("packs/")]
    assert w.ours() == {"snapshots": 1, "attached": 1, "vms": 0}
    w.active.add(steps.job_id)
    await w.reconcile()
    assert w.ours() == {"snapshots": 1, "attached": 1, "vms": 0}, "what a job will go on with is not touched"
    report = await backup_vm(w.node, request.values(), steps)
    assert (await w.node.repository.load(report["point"])).session_id == session
    assert report["disks"][0]["bytes_new"] == 0
    assert [name for name in w.store.inner._objects if name.startswith("packs/")] == stored
    assert w.hypervisor.state.calls.count("snapshot") == 1
    assert w.hypervisor.state.calls.count("attach") == 2, "an attachment is never used over a crash"
    w.assert_only_base()


async def test_a_backup_that_died_at_every_call_goes_on(w):
    vm = w.hypervisor.add_vm("web", TWO_DISKS, seed=9)
    request, steps, lives, nth = w.request(vm), w.steps(), 0, 0

    async def die(call):
        nonlocal nth
        nth += 1
        if nth % 3 == 0 and nth < 120:
            raise Death

    w.hypervisor.on_done = die
    report = None
    while report is None:
        lives += 1
        try:
            report = await backup_vm(w.node, request.values(), steps)
        except Death:
            continue
    assert lives > 3
    assert await disk_bytes(w, report, "scsi.0") == w.hypervisor.bytes_of(vm, "scsi.0")
    w.clock.elapsed += INTENT_LIFE_S
    w.hypervisor.on_done = None
    await w.reconcile()
    w.assert_only_base()
    assert [entry.kind for entry in await w.node.ledger.open_entries()] == [Kind.SNAPSHOT]


async def test_a_store_that_fills_up_meanwhile(w):
    first = await w.backup(w.hypervisor.add_vm("other", [BLOCK]))
    vm = w.hypervisor.add_vm("web", TWO_DISKS)
    full = StoreFull("The store is full", remedy="Free space there.")
    w.store.fail(1, StoreHow.ERROR, verb="create", prefix="packs/", error=full)
    with pytest.raises(StoreFull):
        await w.backup(vm)
    w.assert_only_base()
    assert [point.id for point in await w.node.repository.points()] == [first["point"]]
    assert not [name for name in w.store.inner._objects if name.startswith("sessions/")]


async def test_many_disks_go_by_few_at_a_time(tmp_path):
    async with world(tmp_path, limits__disks=2) as w:
        most = 0

        async def count(call):
            nonlocal most
            most = max(most, w.ours()["attached"])

        w.hypervisor.on_done = count
        report = await w.backup(w.hypervisor.add_vm("web", [BLOCK] * 5))
        assert len(report["disks"]) == 5
        assert most == 2
        w.assert_only_base()
