"""Backups over fakes that meet trouble: refusals, devices, cancelling, death; and what is left behind."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from mover.catalog.ledger import Kind
from mover.errors import (
    DeviceAbsent,
    DeviceFault,
    JobCancelled,
    NoFreeSlot,
    NotFound,
    ProxyUnfit,
    RequestRefused,
    SlotOccupied,
    SpaceShort,
    StoreFull,
)
from mover.model.machine import Disk, DiskKind, Slot
from mover.operations.backup import backup_vm
from mover.operations.reconcile import INTENT_LIFE_S
from mover.units import MIB
from tests.support.fakedevices import FailingDevice
from tests.support.faultystore import How as StoreHow
from tests.support.hypervisorfaults import How
from tests.support.world import BLOCK, TWO_DISKS, world


@pytest.fixture
async def w(tmp_path):
    async with world(tmp_path) as made:
        yield made


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
    assert await w.disk_bytes(report, "scsi.0") == w.hypervisor.bytes_of(vm, "scsi.0")
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
