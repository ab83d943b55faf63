"""Cleaning up, where it touches commands, bases, expiry, and what the operator has to say."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest

from mover.catalog.ledger import Kind
from mover.errors import HookFailed, HypervisorUnreachable, StateFull, StoreUnreachable, UsageError
from mover.metrics import REGISTRY
from mover.model.machine import CloneSource, EmptyDisk, Slot
from mover.operations.backup import backup_vm
from mover.operations.clean import drop_entry, forget, forget_the_past, reconcile, settle
from mover.operations.reconcile import INTENT_LIFE_S, Verb
from tests.support.fakehypervisor import CONTAINER
from tests.support.faultystore import How as StoreHow
from tests.support.hypervisorfaults import How
from tests.support.repositories import flip, names
from tests.support.world import BLOCK, world


@pytest.fixture
async def w(tmp_path):
    async with world(tmp_path) as made:
        yield made


def writing(path, text, code=0):
    return {"command": ["/bin/sh", "-c", f"echo {text} >> {path}; exit {code}"], "timeout": 20.0}


async def test_the_post_command_runs_once_right_after_the_snapshot(w, tmp_path):
    log = tmp_path / "log"
    seen = []

    async def note(call):
        if log.exists():
            seen.append((call, log.read_text().split()))

    w.hypervisor.on_call = note
    await w.backup(
        w.hypervisor.add_vm("web", [BLOCK]), pre_snapshot=writing(log, "pre"), post_snapshot=writing(log, "post")
    )
    assert log.read_text().split() == ["pre", "post"]
    assert ("snapshot", ["pre"]) in seen
    assert ("changed_regions", ["pre", "post"]) in seen
    assert await w.node.ledger.open_entries(kind=Kind.HOOK_POST) == []


async def test_a_failing_pre_command_takes_no_snapshot_and_thaws(w, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(HookFailed, match="pre-snapshot"):
        await w.backup(
            w.hypervisor.add_vm("web", [BLOCK]), pre_snapshot=writing(log, "pre", 1), post_snapshot=writing(log, "post")
        )
    assert log.read_text().split() == ["pre", "post"]
    assert w.hypervisor.state.snapshots == {}


async def test_a_failing_snapshot_thaws(w, tmp_path):
    log = tmp_path / "log"
    w.hypervisor.fail("snapshot", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable):
        await w.backup(w.hypervisor.add_vm("web", [BLOCK]), post_snapshot=writing(log, "post"))
    assert log.read_text().split() == ["post"]


async def test_the_first_of_two_failures_is_told(w, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(HookFailed, match="pre-snapshot"):
        await w.backup(
            w.hypervisor.add_vm("web", [BLOCK]),
            pre_snapshot=writing(log, "pre", 1),
            post_snapshot=writing(log, "post", 1),
        )
    assert log.read_text().split() == ["pre", "post"]
    assert await w.node.ledger.open_entries() == []


async def test_a_stop_while_the_vm_is_frozen_thaws_it(w, tmp_path):
    """An application must not stay frozen until the mover starts again; the job itself goes on then."""
    log, snapshotting = tmp_path / "log", asyncio.Event()

    async def hold(call):
        if call == "snapshot":
            snapshotting.set()
            await asyncio.Event().wait()

    w.hypervisor.on_call = hold
    vm, steps = w.hypervisor.add_vm("web", [BLOCK]), w.steps()
    request = w.request(vm, pre_snapshot=writing(log, "pre"), post_snapshot=writing(log, "post"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(backup_vm(w.node, request.values(), steps))
        await snapshotting.wait()
        task.cancel()
    assert task.cancelled()
    assert log.read_text().split() == ["pre", "post"]
    assert [entry.kind for entry in await w.node.ledger.open_entries()] == [Kind.SNAPSHOT]
    w.hypervisor.on_call = None
    await backup_vm(w.node, request.values(), steps)
    assert log.read_text().split() == ["pre", "post"] * 2


async def test_a_child_that_a_command_leaves_behind_keeps_nobody_waiting(w, tmp_path):
    """The usual way to hold a database's lock over a snapshot."""
    command = {"command": ["/bin/sh", "-c", "sleep 5 & echo said; exit 0"], "timeout": 2.0}
    report = await w.backup(w.hypervisor.add_vm("web", [BLOCK]), pre_snapshot=command)
    assert report["warnings"] == []


async def test_warnings_of_commands_reach_the_report(w, tmp_path):
    log = tmp_path / "log"
    report = await w.backup(
        w.hypervisor.add_vm("web", [BLOCK]), post_snapshot={**writing(log, "post", 4), "on_failure": "warn"}
    )
    assert "exit code 4" in report["warnings"][0]


async def test_reconcile_runs_what_a_dead_job_owes(w, tmp_path):
    log = tmp_path / "log"
    facts = {"hook": writing(log, "post"), "values": {"vm_name": "w", "vm_uuid": "u", "job_id": "j"}}
    await w.node.ledger.intend(Kind.HOOK_POST, job="dead", ordinal=0, facts=facts)
    assert [item.action.verb for item in await reconcile(w.node, apply=False)] == [Verb.RUN_HOOK]
    assert not log.exists()
    [done] = await w.reconcile()
    assert log.read_text().split() == ["post"]
    json.dumps(done.as_dict())
    assert await w.reconcile() == []


async def test_reconcile_extends_a_base_that_would_expire(w):
    await w.backup(w.hypervisor.add_vm("web", [BLOCK]))
    [before] = w.hypervisor.state.snapshots.values()
    w.clock.elapsed += 8 * 86400
    [done] = await w.reconcile()
    assert done.action.verb is Verb.EXTEND_SNAPSHOT
    [after] = w.hypervisor.state.snapshots.values()
    assert after.expires_at == before.expires_at + 8 * 86400
    assert await w.reconcile() == []


async def test_a_forgotten_point_lets_its_base_go(w):
    report = await w.backup(w.hypervisor.add_vm("web", [BLOCK]))
    await w.node.repository.delete_point(report["point"], force=True)
    await w.reconcile()
    w.assert_only_base(0)


async def test_what_cannot_be_done_stays_owed_and_is_told(w):
    vm = w.hypervisor.add_vm("web", [BLOCK])
    w.hypervisor.fail("changed_regions", 1, How.ERROR)
    w.hypervisor.fail("delete_snapshot", 1, How.ERROR)
    with pytest.raises(HypervisorUnreachable) as caught:
        await w.backup(vm)
    assert caught.value.facts["owed"] == ["no committed point needs it as a base"]
    assert w.ours()["snapshots"] == 1
    await w.reconcile()
    w.assert_only_base(0)


async def test_one_action_that_fails_does_not_keep_the_others(w):
    for vm in (w.hypervisor.add_vm("a", [BLOCK]), w.hypervisor.add_vm("b", [BLOCK])):
        report = await w.backup(vm)
        await w.node.repository.delete_point(report["point"], force=True)
    w.hypervisor.fail("delete_snapshot", 1, How.ERROR)
    done = await w.reconcile()
    assert [item.error is None for item in done] == [False, True]
    assert REGISTRY.get_sample_value("mover_orphans", {"kind": "snapshot"}) == 1


async def test_a_store_that_does_not_answer_costs_no_snapshot(w):
    await w.backup(w.hypervisor.add_vm("web", [BLOCK]))
    w.store.fail(1, StoreHow.ERROR, verb="list", error=StoreUnreachable("down", remedy="wait"))
    assert await w.reconcile() == []
    w.assert_only_base()


async def test_a_damaged_manifest_costs_no_snapshot(w):
    await w.backup(w.hypervisor.add_vm("web", [BLOCK]))
    name = next(name for name in w.store.inner._objects if name.startswith("points/"))
    await w.store.inner.replace(name, [b"\0" * 100])
    assert await w.reconcile() == []
    w.assert_only_base()


async def test_settling_never_raises_for_what_others_answer(w):
    await w.node.ledger.intend(Kind.SNAPSHOT, job="j", ordinal=0, facts={"name": "n", "vm_uuid": "u"})
    w.hypervisor.fail("leftovers", 1, How.ERROR)
    [owed] = await settle(w.node, "j")
    assert "fault" in owed.reason


async def test_old_lines_are_forgotten(w):
    old = await w.node.ledger.intend(Kind.VM, job="j", ordinal=0, facts={"name": "n", "key": "k", "known": []})
    await w.node.ledger.given(old)
    w.clock.elapsed += 100 * 86400
    await forget_the_past(w.node)
    assert await w.node.ledger.entries() == []


# --- what is not provably ours ---


async def with_lost_ledger(w):
    """A clone of our snapshot on the Proxy VM, of which the ledger knows nothing; its vmdisk UUID."""
    await w.backup(w.hypervisor.add_vm("web", [BLOCK]))
    [snapshot] = w.hypervisor.state.snapshots.values()
    source = CloneSource(path=snapshot.files[0].path)
    return (await w.hypervisor.attach(w.node.proxy_uuid, Slot("scsi", 7), source)).vmdisk_uuid


async def test_a_clone_of_a_lost_ledger_is_listed_never_detached(w):
    lost = await with_lost_ledger(w)
    for apply in (False, True):
        [done] = await reconcile(w.node, apply=apply)
        assert (done.action.verb, done.action.identity, done.error) == (Verb.LIST, lost, None)
    assert w.ours()["attached"] == 1


async def test_what_the_operator_answers_for_is_never_listed_again(w):
    lost = await with_lost_ledger(w)
    with pytest.raises(UsageError, match="no UUID of a thing") as caught:
        await forget(w.node, "11111111")
    assert lost in caught.value.remedy
    await forget(w.node, lost[:13].upper())
    assert await w.reconcile() == []
    w.clock.elapsed += 365 * 86400
    w.hypervisor.state.snapshots.clear()
    await w.reconcile()
    await forget_the_past(w.node)
    assert await w.reconcile() == []
    assert w.ours()["attached"] == 1


async def test_an_empty_disk_that_may_be_an_administrators_is_kept_and_forgotten(w):
    """An attach whose answer was lost, and whose disk shows up only after its intent has run out."""
    slot, disk = Slot("scsi", 9), EmptyDisk(BLOCK, CONTAINER)
    facts = {"vm_uuid": w.node.proxy_uuid, "slot": str(slot), "known": [], "is_told_by_slot": True}
    facts |= {"size_bytes": BLOCK, "container": CONTAINER}
    intent = await w.node.ledger.intend(Kind.TEMPORARY_DISK, job="dead", ordinal=0, facts=facts)
    made = await w.hypervisor.attach(w.node.proxy_uuid, slot, disk)
    w.clock.elapsed += INTENT_LIFE_S
    [done] = await w.reconcile()
    assert (done.action.verb, done.action.identity) == (Verb.LIST, made.vmdisk_uuid)
    assert w.ours()["attached"] == 1
    await forget(w.node, made.vmdisk_uuid)
    assert await w.reconcile() == []
    assert not (await w.node.ledger.entry(intent.id)).is_open


async def test_what_is_forgotten_while_it_is_cleaned_up_is_left_alone(w):
    """Planned while an empty disk of ours was known by its slot alone; forgotten before its turn."""
    slot, disk = Slot("scsi", 9), EmptyDisk(BLOCK, CONTAINER)
    facts = {"vm_uuid": w.node.proxy_uuid, "slot": str(slot), "known": [], "is_told_by_slot": True}
    facts |= {"size_bytes": BLOCK, "container": CONTAINER}
    intent = await w.node.ledger.intend(Kind.TEMPORARY_DISK, job="dead", ordinal=0, facts=facts)
    made = await w.hypervisor.attach(w.node.proxy_uuid, slot, disk)
    assert [item.action.verb for item in await reconcile(w.node, apply=False)] == [Verb.DETACH]
    asked = []

    async def active_jobs():
        asked.append(1)
        if len(asked) == 2:
            await w.node.ledger.forget(intent, made.vmdisk_uuid)
        return set()

    assert await reconcile(dataclasses.replace(w.node, active_jobs=active_jobs), apply=True) == []
    assert w.ours()["attached"] == 1


async def test_an_intent_lives_as_long_as_the_settings_let_its_call_take(w):
    prism = w.node.settings.prism.model_copy(update={"task_timeout": 2 * INTENT_LIFE_S})
    node = dataclasses.replace(w.node, settings=w.node.settings.model_copy(update={"prism": prism}))
    facts = {"vm_uuid": w.node.proxy_uuid, "slot": "scsi.9", "known": [], "source_path": "/a"}
    intent = await w.node.ledger.intend(Kind.ATTACHMENT, job="dead", ordinal=0, facts=facts)
    w.clock.elapsed += 2 * INTENT_LIFE_S
    assert [item.action.verb for item in await reconcile(node, apply=True)] == [Verb.WAIT]
    await drop_entry(node, intent)
    assert (await node.ledger.entry(intent.id)).is_open
    w.clock.elapsed += INTENT_LIFE_S
    assert [item.action.verb for item in await reconcile(node, apply=True)] == [Verb.CLOSE]


async def test_ended_jobs_are_forgotten(w):
    calls = []

    async def forget_jobs():
        calls.append(1)

    assert await forget_the_past(dataclasses.replace(w.node, forget_jobs=forget_jobs)) is None
    assert calls == [1]


async def test_a_book_of_jobs_that_cannot_be_pruned_is_told_and_stops_nothing(w):
    async def fail():
        raise StateFull("no room", remedy="make some")

    assert isinstance(await forget_the_past(dataclasses.replace(w.node, forget_jobs=fail)), StateFull)


async def test_the_end_of_a_restore_judges_no_snapshot(w):
    """It reads no points, so it knows of no base: neither of a VM's nor where a line does not say which VM's."""
    report = await w.backup(w.hypervisor.add_vm("web", [BLOCK]))
    (line,) = await w.node.ledger.open_entries(kind=Kind.SNAPSHOT)
    facts = {name: value for name, value in line.facts.items() if name != "vm_uuid"}
    await w.node.ledger.gone(line)
    nameless = await w.node.ledger.intend(Kind.SNAPSHOT, job="f" * 16, ordinal=0, facts=facts)
    await w.node.ledger.made(nameless, line.identity)
    await w.restore(report["point"], "web2")
    assert w.ours()["snapshots"] == 1


async def test_the_end_of_a_job_reads_nothing_of_other_vms(w):
    web, *others = (w.hypervisor.add_vm(name, [BLOCK]) for name in ("web", "a", "b", "c"))

    async def calls() -> tuple[list[str], list[str]]:
        w.store.calls.clear()
        w.hypervisor.state.calls.clear()
        await w.backup(web)
        return w.store.calls, sorted(w.hypervisor.state.calls)

    await w.backup(web)
    _, alone = await calls()
    for other in others:
        await w.backup(other)
    store, beside = await calls()
    assert [call for call in store if f"points/{web.uuid}" in call]
    assert [call for call in store for other in others if other.uuid in call] == []
    assert beside == alone
    assert w.ours()["snapshots"] == 4


async def test_a_base_whose_manifest_is_damaged_at_its_end_keeps_its_snapshot_and_no_others(w):
    web, other = (w.hypervisor.add_vm(name, [BLOCK]) for name in ("web", "other"))
    await w.backup(web)
    await w.backup(other)
    [manifest] = [name for name in names(w.store.inner, "points/") if web.uuid in name]
    flip(w.store.inner, manifest, -1)
    [point] = [one for one in await w.node.repository.points() if one.vm_uuid == other.uuid]
    await w.node.repository.delete_point(point.id, force=True)
    w.clock.elapsed += 86400.0
    assert [item.action.verb for item in await w.reconcile()] == [Verb.DELETE_SNAPSHOT]
    assert [snapshot.vm_uuid for snapshot in w.hypervisor.state.snapshots.values()] == [web.uuid]


async def test_a_clone_that_shows_up_after_its_intent_was_closed_is_detached(w):
    await w.backup(w.hypervisor.add_vm("web", [BLOCK]))
    path = next(iter(w.hypervisor.state.snapshots.values())).files[0].path
    facts = {"vm_uuid": w.node.proxy_uuid, "slot": "scsi.9", "known": [], "source_path": path}
    await w.node.ledger.intend(Kind.ATTACHMENT, job="dead", ordinal=0, facts=facts)
    w.clock.elapsed += INTENT_LIFE_S
    assert [item.action.verb for item in await w.reconcile()] == [Verb.CLOSE]
    await w.hypervisor.attach(w.node.proxy_uuid, Slot("scsi", 9), CloneSource(path=path))
    assert [item.action.verb for item in await w.reconcile()] == [Verb.DETACH]
    w.assert_only_base()
