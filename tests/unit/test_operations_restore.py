"""Restores over fakes: a new VM, one disk into a VM, a file; and what is refused or cleaned up."""

from __future__ import annotations

import dataclasses

import pytest

from mover.catalog.ledger import Kind
from mover.errors import (
    AmbiguousName,
    Damaged,
    DeviceRefused,
    EffectUnknown,
    NoSuchPoint,
    ProxyUnfit,
    RequestRefused,
    RightsMissing,
    SlotOccupied,
    SpaceShort,
    StateDamaged,
    StateFull,
    TargetExists,
    TaskFailed,
    UsageError,
)
from mover.metrics import REGISTRY
from mover.model.machine import DiskKind, Slot, StorageContainer
from mover.operations.node import ReadingNode
from mover.operations.reconcile import INTENT_LIFE_S
from mover.operations.request import RestoreDiskRequest
from mover.operations.restore import restore_disk_into
from mover.operations.tofile import restore_to_file
from mover.operations.verify import verify_point
from mover.units import MIB
from tests.support.fakehypervisor import CONTAINER, NETWORK
from tests.support.hypervisorfaults import How
from tests.support.world import BLOCK, TWO_DISKS, world


@pytest.fixture
async def w(tmp_path):
    async with world(tmp_path) as made:
        yield made


@pytest.fixture
async def web(w):
    return w.hypervisor.add_vm("web", TWO_DISKS, seed=7)


@pytest.fixture
async def point(w, web):
    return (await w.backup(web))["point"]


def reader(w):
    return ReadingNode(w.node.settings, w.clock, w.node.repository, w.node.workers, standing=w.node.board.standing)


def same(w, one, other):
    return all(w.hypervisor.bytes_of(one, slot) == w.hypervisor.bytes_of(other, slot) for slot in ("scsi.0", "scsi.1"))


async def into(w, point, disk, vm, **wishes):
    request = RestoreDiskRequest(point, disk, vm.uuid, **wishes)
    return await restore_disk_into(w.node, request.values(), w.steps())


async def test_a_point_comes_back_as_a_new_vm(w, web, point):
    report = await w.restore(point, "web2", power_on=True)
    new = w.hypervisor.named("web2")
    assert same(w, web, new)
    assert new.is_on
    assert report["nic_mode"] == "disconnected"
    assert [row["slot"] for row in report["disks"]] == ["scsi.0", "scsi.1"]
    assert w.ours()["attached"] == 0
    assert [entry.kind for entry in await w.node.ledger.open_entries()] == [Kind.SNAPSHOT]


async def test_network_cards_are_kept_only_when_the_original_is_gone(w, web, point):
    with pytest.raises(RequestRefused, match="still exists"):
        await w.restore(point, "a", nic_mode="keep")
    assert (await w.restore(point, "b", nic_mode="new-mac"))["nic_mode"] == "new-mac"
    w.hypervisor.state.vms.pop(web.uuid)
    assert (await w.restore(point, "c"))["nic_mode"] == "keep"


async def test_an_unknown_network_is_refused_before_a_byte_moves(w, point):
    with pytest.raises(RequestRefused, match="no network nowhere") as caught:
        await w.restore(point, "web2", network_map={NETWORK: "nowhere"})
    assert caught.value.facts["owed"] == []
    assert not [entry for entry in await w.node.ledger.open_entries() if entry.kind is Kind.VM]
    w.assert_only_base()
    assert w.devices.located == 2


async def test_an_excluded_disk_comes_back_empty(w, web):
    report = await w.backup(web, exclude=("scsi.1",))
    result = await w.restore(report["point"], "web2")
    new = w.hypervisor.named("web2")
    assert w.hypervisor.bytes_of(new, "scsi.1") == bytes(TWO_DISKS[1])
    assert w.hypervisor.bytes_of(new, "scsi.0") == w.hypervisor.bytes_of(web, "scsi.0")
    assert "scsi.1 comes back empty: excluded by scsi.1" in result["warnings"]


async def test_containers_are_mapped_or_refused(w, web, point):
    image = (await w.node.repository.load(point)).disks[0]
    w.hypervisor.state.vms.pop(web.uuid)
    with pytest.raises(RequestRefused, match="no storage container other"):
        await w.restore(point, "web2", container_map={image.container_uuid: "other"})
    await w.restore(point, "web2", container_map={"*": "default"})
    assert w.hypervisor.named("web2")


async def test_a_container_is_mapped_by_its_name_too(w, point):
    with pytest.raises(RequestRefused, match="no storage container other"):
        await w.restore(point, "web2", container_map={"default": "other"})


async def test_a_restore_to_another_cluster_is_told_how_to_map_its_containers(w, point):
    elsewhere = StorageContainer("e", "default", "cluster", 1 << 41, 1 << 41)
    w.hypervisor._containers = lambda: (elsewhere,)
    with pytest.raises(RequestRefused, match=f"no storage container {CONTAINER}") as caught:
        await w.restore(point, "web2", container_map={"default": "default"})
    assert f"--container {CONTAINER}=NAME" in caught.value.remedy
    assert caught.value.remedy.endswith("here are: default.")
    asked = w.hypervisor.state.calls.count("containers")
    assert await w.restore(point, "web2", container_map={CONTAINER: "default"})
    assert w.hypervisor.state.calls.count("containers") == asked + 1


async def test_a_container_that_no_disk_lay_in_is_told(w, point):
    result = await w.restore(point, "web2", container_map={"defualt": "default"})
    [told] = [warning for warning in result["warnings"] if "--container" in warning]
    assert told == "--container defualt=default changed nothing: no disk lay in defualt (they lay in: default)."


async def test_room_for_all_disks_is_looked_at_first(tmp_path):
    async with world(tmp_path, limits__container_free=MIB) as w:
        report = await w.backup(w.hypervisor.add_vm("web", TWO_DISKS))
        w.hypervisor.state.free_bytes = MIB + sum(TWO_DISKS) - 1
        with pytest.raises(SpaceShort):
            await w.restore(report["point"], "web2")
        w.assert_only_base()


async def test_a_clone_that_is_not_proven_keeps_nothing(w, point):
    honest = w.hypervisor._attach

    def shrinks(vm_uuid, slot, source):
        made = honest(vm_uuid, slot, source)
        if vm_uuid != w.node.proxy_uuid:
            vm = w.hypervisor.state.vms[vm_uuid]
            w.hypervisor.put(
                dataclasses.replace(vm, disks=tuple(dataclasses.replace(d, size_bytes=512) for d in vm.disks))
            )
        return made

    w.hypervisor._attach = shrinks
    with pytest.raises(TaskFailed, match="instead of"):
        await w.restore(point, "web2")
    w.assert_only_base()


async def test_a_target_that_is_not_empty_is_refused_and_cleaned_up(w, point):
    w.devices.errors.append(DeviceRefused("holds data", remedy="look"))
    with pytest.raises(DeviceRefused):
        await w.restore(point, "web2")
    w.assert_only_base()


async def test_damage_stops_a_restore_and_verify_names_the_object(w, web, point):
    pack = next(name for name in w.store.inner._objects if name.startswith("packs/"))
    spoilt = bytearray(await w.store.inner.get(pack))
    spoilt[len(spoilt) // 3] ^= 1
    await w.store.inner.replace(pack, [bytes(spoilt)])
    with pytest.raises(Damaged):
        await w.restore(point, "web2")
    w.assert_only_base()
    with pytest.raises(Damaged) as caught:
        await verify_point(reader(w), point)
    assert caught.value.facts["objects"] == [pack]


@pytest.mark.parametrize("where", ["index/", "packs/"])
async def test_verify_names_what_a_restore_can_do_without(w, web, point, where):
    name = next(name for name in w.store.inner._objects if name.startswith(where))
    spoilt = bytearray(await w.store.inner.get(name))
    spoilt[-3] ^= 1
    await w.store.inner.replace(name, [bytes(spoilt)])
    with pytest.raises(Damaged, match="Every block") as caught:
        await verify_point(reader(w), point)
    assert caught.value.facts["objects"] == [name]
    await w.restore(point, "web2")


async def test_verify_reads_all(w, point):
    report = await verify_point(reader(w), point)
    assert report["verified"]
    assert [row["size_bytes"] for row in report["disks"]] == TWO_DISKS
    stamp = REGISTRY.get_sample_value("mover_vm_last_verified_timestamp_seconds", {"vm": "web"})
    assert stamp == w.clock.now()
    assert not [name for name in w.store.inner._objects if name.startswith("sessions/")]


async def test_an_unknown_point(w):
    with pytest.raises(NoSuchPoint):
        await w.restore("00000000", "web2")


async def test_a_proxy_elsewhere_cannot_restore(w, point):
    w.hypervisor.put(dataclasses.replace(w.hypervisor.named("proxy"), cluster_uuid="elsewhere"))
    with pytest.raises(ProxyUnfit):
        await w.restore(point, "web2")


async def test_one_disk_joins_an_existing_vm_at_a_free_slot(w, web, point):
    target = w.hypervisor.add_vm("target", [BLOCK])
    report = await into(w, point, "scsi.1", target)
    assert report["disks"][0]["slot"] == "scsi.1"
    assert w.hypervisor.bytes_of(target, "scsi.1") == w.hypervisor.bytes_of(web, "scsi.1")
    report = await into(w, point, "scsi.0", target, slot="scsi.7")
    assert w.hypervisor.bytes_of(target, "scsi.7") == w.hypervisor.bytes_of(web, "scsi.0")
    w.assert_only_base()


async def test_disks_that_cannot_join(w, web, point):
    target = w.hypervisor.add_vm("target", [BLOCK])
    with pytest.raises(SlotOccupied, match="is occupied") as caught:
        await into(w, point, "scsi.1", target, slot="scsi.0")
    assert "scsi.1" in caught.value.remedy
    with pytest.raises(UsageError, match=r"no disk scsi\.9"):
        await into(w, point, "scsi.9", target)
    with pytest.raises(RequestRefused, match="Proxy VM"):
        await into(w, point, "scsi.1", w.hypervisor.named("proxy"))
    partial = await w.backup(web, exclude=("scsi.1",))
    with pytest.raises(UsageError, match="excluded"):
        await into(w, partial["point"], "scsi.1", target)
    assert w.hypervisor.state.vms[target.uuid].disks == target.disks


@pytest.mark.parametrize("slot", ["banana", "3", "sata.1", "scsi.256"])
async def test_what_is_no_scsi_slot_is_said_to_be_none(w, point, slot):
    with pytest.raises(UsageError, match="no SCSI slot"):
        await into(w, point, "scsi.1", w.hypervisor.add_vm("target", [BLOCK]), slot=slot)


async def test_a_vm_without_any_free_slot(w, point):
    target = w.hypervisor.add_vm("target", [BLOCK])
    others = [dataclasses.replace(target.disks[0], slot=Slot("scsi", n)) for n in range(256)]
    w.hypervisor.put(dataclasses.replace(target, disks=tuple(others)))
    with pytest.raises(SlotOccupied, match="is occupied"):
        await into(w, point, "scsi.1", target, slot="scsi.4")


@pytest.mark.parametrize("kind", [RightsMissing, StateDamaged, StateFull])
async def test_a_vm_whose_disks_are_in_place_is_given_although_it_could_not_be_finished(w, web, point, kind):
    w.hypervisor.fail("finish_vm", 1, How.ERROR, kind("no role for it", remedy="r"))
    report = await w.restore(point, "web2", power_on=True)
    assert "no role for it" in " ".join(report["warnings"])
    assert report["is_on"]
    w.clock.elapsed += INTENT_LIFE_S
    await w.reconcile()
    assert same(w, web, w.hypervisor.named("web2"))


async def test_a_file_needs_no_cluster(w, web, point, tmp_path):
    path = tmp_path / "disk.raw"
    w.hypervisor.fail(None, 1, How.ERROR)
    report = await restore_to_file(reader(w), point, "scsi.0", path)
    assert path.read_bytes() == w.hypervisor.bytes_of(web, "scsi.0")
    assert report["disks"][0]["bytes_written"] + report["disks"][0]["bytes_zero"] == TWO_DISKS[0]
    with pytest.raises(TargetExists):
        await restore_to_file(reader(w), point, "scsi.0", path)
    with pytest.raises(AmbiguousName):
        await restore_to_file(reader(w), point, None, tmp_path / "other.raw")


async def test_an_empty_disk_whose_attach_was_lost_is_found_by_its_place(w, point):
    w.hypervisor.fail("attach", 1, How.EFFECT_THEN_ERROR)
    await w.restore(point, "web2")
    assert w.ours()["attached"] == 0


async def test_an_empty_disk_that_comes_too_late_is_cleaned_up_by_reconcile(w, point):
    w.hypervisor.fail("attach", 1, How.TIME_OUT)
    with pytest.raises(EffectUnknown) as caught:
        await w.restore(point, "web2")
    assert caught.value.facts["owed"] == ["the call that makes it may still take effect"]
    entry = next(e for e in await w.node.ledger.open_entries() if e.kind is Kind.TEMPORARY_DISK)
    proxy = w.hypervisor.named("proxy")
    late = dataclasses.replace(
        proxy.disks[0],
        device_uuid="late",
        vmdisk_uuid="late-disk",
        slot=Slot.parse(entry.facts["slot"]),
        kind=DiskKind.DISK,
        size_bytes=entry.facts["size_bytes"],
    )
    w.hypervisor.put(dataclasses.replace(proxy, disks=(*proxy.disks, late)))
    await w.reconcile()
    w.assert_only_base()


async def test_a_target_slot_taken_at_the_last_moment(w, point):
    target = w.hypervisor.add_vm("target", [BLOCK])

    async def steal(call):
        vm = w.hypervisor.state.vms[target.uuid]
        if call == "attach" and w.hypervisor.state.calls.count("attach") == 4 and len(vm.disks) == 1:
            thief = dataclasses.replace(vm.disks[0], slot=Slot("scsi", 1), vmdisk_uuid="t", device_uuid="t")
            w.hypervisor.put(dataclasses.replace(vm, disks=(*vm.disks, thief)))

    w.hypervisor.on_call = steal
    report = await into(w, point, "scsi.1", target)
    assert report["disks"][0]["slot"] == "scsi.2"
    w.assert_only_base()


class Death(BaseException):
    """As a kill: nothing is cleaned up, the job goes on later."""


async def test_a_restore_that_died_anywhere_goes_on_with_fresh_disks(w, web):
    point = (await w.backup(web, exclude=("scsi.1",)))["point"]
    steps, nth = w.steps(), 0

    async def die(call):
        nonlocal nth
        if call in ("attach", "create_vm", "detach", "finish_vm"):
            nth += 1
            if nth in deaths:
                raise Death

    w.hypervisor.on_done = die
    deaths = set(range(1, 40, 2))
    lives = 0
    while True:
        lives += 1
        try:
            report = await w.restore(point, "web2", steps=steps)
            break
        except Death:
            continue
    assert lives > 5
    new = w.hypervisor.state.vms[report["vm_uuid"]]
    assert w.hypervisor.bytes_of(new, "scsi.0") == w.hypervisor.bytes_of(web, "scsi.0")
    assert w.hypervisor.bytes_of(new, "scsi.1") == bytes(TWO_DISKS[1])
    assert len(new.disks) == 2
    assert w.ours() == {"snapshots": 1, "attached": 0, "vms": 1}
    w.clock.elapsed += INTENT_LIFE_S
    await w.reconcile()
    assert w.hypervisor.state.vms[new.uuid] == new
    assert [entry.kind for entry in await w.node.ledger.open_entries()] == [Kind.SNAPSHOT]
