"""A job that failed and is ordered again: another attempt under the same job, which takes nothing for done."""

from __future__ import annotations

import pytest

from mover.catalog.ledger import Kind
from mover.errors import (
    DeviceAbsent,
    DeviceFault,
    HypervisorUnreachable,
    NotFound,
    SessionVoided,
    StoreUnreachable,
    TaskFailed,
)
from mover.operations.backup import backup_vm
from mover.operations.clean import reconcile
from mover.operations.reconcile import Verb
from mover.operations.request import RestoreDiskRequest
from mover.operations.restore import restore_disk_into
from tests.support.faultystore import How as StoreHow
from tests.support.hypervisorfaults import How
from tests.support.steps import DirectSteps
from tests.support.world import BLOCK, TWO_DISKS, world


@pytest.fixture
async def w(tmp_path):
    async with world(tmp_path, limits__disks=1) as made:
        yield made


@pytest.fixture
async def web(w):
    return w.hypervisor.add_vm("web", TWO_DISKS, seed=7)


@pytest.fixture
async def point(w, web):
    return (await w.backup(web))["point"]


async def test_another_attempt_at_a_restore_brings_every_disk_again(w, web, point):
    """The first attempt gave one disk to a VM that was then deleted: it is not there in the second one."""
    steps = w.steps()
    honest, found = w.devices.locate, []

    async def second_never_comes(attachment, **facts):
        found.append(attachment)
        if len(found) == 2:
            raise DeviceAbsent("no device", remedy="look")
        return await honest(attachment, **facts)

    w.devices.locate = second_never_comes
    with pytest.raises(DeviceAbsent):
        await w.restore(point, "web2", steps=steps)
    w.assert_only_base()
    report = await w.restore(point, "web2", steps=DirectSteps(steps.job_id))
    new = w.hypervisor.state.vms[report["vm_uuid"]]
    assert [str(disk.slot) for disk in new.disks] == ["scsi.0", "scsi.1"]
    assert all(w.hypervisor.bytes_of(new, slot) == w.hypervisor.bytes_of(web, slot) for slot in ("scsi.0", "scsi.1"))


async def test_a_disk_that_joined_a_vm_and_was_removed_joins_it_again(w, web, point):
    target = w.hypervisor.add_vm("target", [BLOCK])
    request, steps = RestoreDiskRequest(point, "scsi.1", target.uuid).values(), w.steps()
    await restore_disk_into(w.node, request, steps)
    again = await restore_disk_into(w.node, request, DirectSteps(steps.job_id))
    assert again["disks"][0]["slot"] == "scsi.1"
    assert len(w.hypervisor.state.vms[target.uuid].disks) == 2, "what is there already is not brought twice"
    w.hypervisor.put(target)
    await restore_disk_into(w.node, request, DirectSteps(steps.job_id))
    assert w.hypervisor.bytes_of(target, "scsi.1") == w.hypervisor.bytes_of(web, "scsi.1")


async def test_a_point_once_committed_needs_neither_vm_nor_room(w, web):
    request, steps = w.request(web), w.steps()
    report = await backup_vm(w.node, request.values(), steps)
    w.hypervisor.state.vms.pop(web.uuid)
    assert await backup_vm(w.node, request.values(), DirectSteps(steps.job_id)) == report


async def test_a_committed_point_is_no_failure_whatever_the_store_answers_after_it(w, web):
    await w.backup(w.hypervisor.add_vm("other", [BLOCK]))
    honest = w.store.inner.create

    async def then_down(name, parts):
        await honest(name, parts)
        if name.startswith("points/"):
            w.store.fail(1, StoreHow.ERROR, times=99, error=StoreUnreachable("down", remedy="wait"))

    w.store.inner.create = then_down
    report = await w.backup(web)
    assert len(w.store.failed) >= 2
    w.store._plans.clear()
    assert report["point"] in {point.id for point in await w.node.repository.points()}


async def test_a_session_that_breaks_off_after_the_commit_is_no_failure(w, web):
    honest = w.node.repository.open_session

    async def opened(**facts):
        session = await honest(**facts)
        run = session.run

        async def voided_at_the_end():
            await run()
            raise SessionVoided("taken for dead", remedy="again")

        session.run = voided_at_the_end
        return session

    w.node.repository.open_session = opened
    assert (await w.backup(web))["point"]
    assert not [name for name in w.store.inner._objects if name.startswith("sessions/")]


async def test_a_point_deleted_while_a_job_settles_is_no_failure(w, web, monkeypatch):
    other = await w.backup(w.hypervisor.add_vm("other", [BLOCK]))
    honest = w.node.repository.points

    async def deletes_after_listing(vm_uuid=None):
        found = await honest(vm_uuid)
        if vm_uuid is None and any(point.vm_uuid == web.uuid for point in found):
            monkeypatch.undo()
            await w.node.repository.delete_point(other["point"], force=True)
        return found

    monkeypatch.setattr(w.node.repository, "points", deletes_after_listing)
    assert (await w.backup(web))["point"]


async def test_a_restored_vm_that_cannot_be_turned_on_is_kept(w, web, point):
    w.hypervisor.fail("set_power", 1, How.ERROR, TaskFailed("No host has room for it", remedy="Free memory."))
    report = await w.restore(point, "web2", power_on=True)
    assert not report["is_on"]
    assert any("No host has room for it" in warning for warning in report["warnings"])
    new = w.hypervisor.named("web2")
    assert w.hypervisor.bytes_of(new, "scsi.0") == w.hypervisor.bytes_of(web, "scsi.0")
    assert [entry.kind for entry in await w.node.ledger.open_entries()] == [Kind.SNAPSHOT]


async def test_reconcile_leaves_alone_what_a_job_that_was_ordered_again_uses_now(w, web, point):
    """The plan was made while nobody needed the VM; when its turn comes, its job runs again."""
    steps = w.steps()
    w.hypervisor.fail("attach", 1, How.ERROR, DeviceFault("broken", remedy="look"))
    w.hypervisor.fail("delete_vm", 1, How.ERROR)
    with pytest.raises(DeviceFault):
        await w.restore(point, "web2", steps=steps)
    assert w.ours()["vms"] == 1

    async def ordered_again(call):
        if call == "leftovers":
            w.active.add(steps.job_id)

    w.hypervisor.on_done = ordered_again
    done = await w.reconcile()
    assert [item.action.verb for item in done if item.action.kind is Kind.VM] == []
    assert w.ours()["vms"] == 1
    w.active.clear()
    w.hypervisor.on_done = None
    assert Verb.DELETE_VM in [item.action.verb for item in await reconcile(w.node, apply=True)]
    w.assert_only_base()


async def test_what_prism_refused_to_snapshot_is_not_owed(w, web):
    async def delete(call):
        if call == "snapshot":
            w.hypervisor.state.vms.pop(web.uuid, None)

    w.hypervisor.on_call = delete
    with pytest.raises(NotFound, match="There is no VM") as caught:
        await w.backup(web)
    assert caught.value.facts["owed"] == []
    assert await w.node.ledger.open_entries() == []


async def test_a_snapshot_whose_answer_is_lost_stays_owed(w, web):
    w.hypervisor.fail("snapshot", 1, How.ERROR, HypervisorUnreachable("gone", remedy="wait"))
    with pytest.raises(HypervisorUnreachable) as caught:
        await w.backup(web)
    assert caught.value.facts["owed"] == ["the call that makes it may still take effect"]
