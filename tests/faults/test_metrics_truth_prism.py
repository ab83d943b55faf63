"""What the metrics say when Prism, its administrators or its lists go wrong: see ``test_metrics_truth.py``."""

from __future__ import annotations

import dataclasses

import pytest

from mover.errors import ConsistencyDowngraded, HypervisorUnreachable, NotFound
from mover.model.machine import Consistency
from mover.model.region import Regions
from mover.operations.clean import reconcile
from mover.operations.presence import look_for_vms
from tests.support.hypervisorfaults import How
from tests.support.watched import Watched, of_vm, stands, stays, value
from tests.support.world import BLOCK, world


async def test_a_list_of_changes_that_lies_is_counted_and_the_point_is_good(tmp_path):
    async with world(tmp_path, data__audit_full=True) as made:
        seen = Watched(made, tmp_path)
        vm = made.hypervisor.add_vm("web", [3 * BLOCK], seed=7)
        await seen.backup(vm)
        assert value("audit_mismatches_total", vm="web") == 0
        honest = made.hypervisor._changed
        made.hypervisor.write(vm, "scsi.0", 2 * BLOCK, b"unlisted")

        made.hypervisor._changed = lambda path, base, size: dataclasses.replace(
            honest(path, base, size), regions=Regions.of([], size_bytes=size)
        )
        report = await seen.backup(vm)
        assert value("audit_mismatches_total", vm="web") == 1
        assert of_vm("full_reason", reason="contradicted") == 1
        frozen_at = (await seen.node.repository.load(report["point"])).created_at
        await stays(seen, (frozen_at, None, 0))
        assert of_vm("full_reason", reason="contradicted") == 1
        await seen.close()


async def test_a_downgrade_is_told_until_the_next_point_is_as_asked(seen, web):
    seen.w.hypervisor.downgrade = True
    await seen.backup(web, consistency=Consistency.APPLICATION, on_downgrade="warn")
    assert (of_vm("consistency_downgraded"), of_vm("application_consistent")) == (1, 0)
    await stays(seen, (seen.now, None, 0))
    assert of_vm("consistency_downgraded") == 1
    success = seen.now
    with pytest.raises(ConsistencyDowngraded):
        await seen.backup(web, consistency=Consistency.APPLICATION, on_downgrade="fail")
    await stays(seen, (success, seen.now, 0))
    seen.w.hypervisor.downgrade = False
    await seen.backup(web, consistency=Consistency.APPLICATION)
    assert (of_vm("consistency_downgraded"), of_vm("application_consistent")) == (0, 1)
    await stays(seen, (seen.now, None, 0))


async def test_a_vm_that_was_deleted_fails_and_goes_with_its_points(seen, web):
    before = of_vm("last_success_timestamp_seconds")
    [point] = await seen.node.repository.points()
    del seen.w.hypervisor.state.vms[web.uuid]
    with pytest.raises(NotFound):
        await seen.backup(web)
    await stays(seen, (before, seen.now, 0))
    assert of_vm("present") is None
    await look_for_vms(seen.node)
    await stays(seen, (before, seen.now, 0))
    assert of_vm("present") == 0
    await seen.node.repository.delete_point(point.id, force=True)
    await seen.node.board.standing.recall(seen.node.repository)
    assert stands() == (0, seen.now, 0)
    seen.w.clock.elapsed += 8 * 86400
    await seen.node.board.standing.recall(seen.node.repository)
    await stays(seen, (None, None, None))


async def test_a_list_of_vms_that_is_cut_short_declares_none_dead(seen, web):
    whole = await seen.node.hypervisor.inventory()

    async def nothing():
        return dataclasses.replace(whole, vms=())

    seen.w.hypervisor.inventory = nothing
    await look_for_vms(seen.node)
    assert of_vm("present") == 1


async def test_without_prism_what_was_known_of_a_vm_stays(seen, web):
    del seen.w.hypervisor.state.vms[web.uuid]
    await look_for_vms(seen.node)
    seen.w.hypervisor.state.vms[web.uuid] = web
    seen.w.hypervisor.fail("inventory", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await look_for_vms(seen.node)
    assert of_vm("present") == 0
    await look_for_vms(seen.node)
    assert of_vm("present") == 1


async def test_a_prism_that_is_down_fails_jobs_and_hides_no_orphan(seen, web):
    before = of_vm("last_success_timestamp_seconds")
    [snapshot] = seen.w.hypervisor.state.snapshots.values()
    seen.w.hypervisor.state.snapshots["x"] = dataclasses.replace(
        snapshot, uuid="x", name=seen.node.name("a" * 16, "snapshot-1"), created_at=123.0
    )
    await reconcile(seen.node, apply=True)
    orphans = ("orphans", "orphans_oldest_timestamp_seconds")
    assert [value(name, kind="snapshot") for name in orphans] == [1, 123]
    seen.w.hypervisor.fail("leftovers", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await reconcile(seen.node, apply=True)
    assert [value(name, kind="snapshot") for name in orphans] == [1, 123]
    seen.w.hypervisor.fail("vm", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await seen.backup(web)
    await stays(seen, (before, seen.now, 0))
    del seen.w.hypervisor.state.snapshots["x"]
    await reconcile(seen.node, apply=True)
    assert [value(name, kind="snapshot") for name in orphans] == [0, None]


async def test_what_cannot_be_cleaned_up_is_an_orphan_and_what_was_is_none(seen, web):
    async def refuse(call):
        if call == "detach":
            raise HypervisorUnreachable("no answer", remedy="wait")

    seen.w.hypervisor.on_call = refuse
    with pytest.raises(HypervisorUnreachable):
        await seen.backup(web, exclude=("scsi.1",))
    intended_at = seen.now
    seen.w.clock.elapsed += 500
    await reconcile(seen.node, apply=True)
    assert value("orphans", kind="attachment") == 1
    assert value("orphans_oldest_timestamp_seconds", kind="attachment") == intended_at
    seen.w.hypervisor.on_call = None
    await reconcile(seen.node, apply=True)
    assert value("orphans", kind="attachment") == 0
    assert value("orphans_oldest_timestamp_seconds", kind="attachment") is None


async def test_a_base_that_expires_soon_is_no_orphan(seen, web):
    seen.w.clock.elapsed += seen.node.settings.prism.snapshot_life * 0.6
    await reconcile(seen.node, apply=True)
    assert "extend_snapshot" in seen.w.hypervisor.state.calls
    assert value("orphans", kind="snapshot") == 0


async def test_a_base_that_an_administrator_deletes_has_no_age(seen, web):
    assert of_vm("base_snapshot_timestamp_seconds") is not None
    seen.w.hypervisor.state.snapshots.clear()
    await reconcile(seen.node, apply=True)
    assert of_vm("base_snapshot_timestamp_seconds") is None
    await seen.backup(web)
    assert of_vm("base_snapshot_timestamp_seconds") == seen.now
