"""The plan of reconcile, pure; and its doing where it touches hooks, bases and expiry."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest

from mover.catalog.ledger import Entry, Kind, State
from mover.errors import HookFailed, HypervisorUnreachable, StoreUnreachable
from mover.metrics import REGISTRY
from mover.model.machine import Consistency, Disk, DiskKind, Leftovers, Slot, Snapshot, SnapshotState, Vm
from mover.operations.backup import backup_vm
from mover.operations.clean import reconcile, settle
from mover.operations.reconcile import INTENT_LIFE_S, Observed, Verb, make_plan
from mover.units import GIB
from tests.support.fakehypervisor import CONTAINER, How
from tests.support.faultystore import How as StoreHow
from tests.support.world import BLOCK, world

INSTALL = "0a1b2c3d"
NOW = 10_000.0
NAME = f"mover-{INSTALL}-node1-00000000000000aa-snapshot-1"
JOB = "00000000000000aa"


def entry(kind, *, identity=None, state=None, at=NOW, job=JOB, **facts):
    standard = {
        Kind.SNAPSHOT: {"name": NAME, "vm_uuid": "vm", "repository": "repo"},
        Kind.ATTACHMENT: {"vm_uuid": "proxy", "slot": "scsi.3", "known": ["old"], "source_path": "/snap/a"},
        Kind.TEMPORARY_DISK: {
            "vm_uuid": "proxy",
            "slot": "scsi.3",
            "known": ["old"],
            "size_bytes": GIB,
            "container": CONTAINER,
            "is_told_by_slot": True,
        },
        Kind.VM: {"name": "web2", "key": "k", "known": ["other"]},
        Kind.HOOK_POST: {"hook": {}, "values": {}},
    }[kind]
    state = state or (State.MADE if identity else State.INTENDED)
    return Entry(1, job, kind, 0, 1, state, identity, {**standard, **facts}, at)


def snapshot(uuid, name=NAME, expires_at=NOW + 1e6):
    return Snapshot(uuid, name, "vm", SnapshotState.COMPLETE, Consistency.CRASH, expires_at=expires_at)


def disk(slot="scsi.3", vmdisk="new", **facts):
    standard = {"size_bytes": GIB, "container_uuid": CONTAINER}
    return Disk("device", Slot.parse(slot), DiskKind.DISK, vmdisk_uuid=vmdisk, **{**standard, **facts})


def proxy(*disks):
    return Vm("proxy", "proxy", "c", None, True, disks)


def plan(*entries, snapshots=(), disks=(), vms=(), bases=None, active=(), there=None, now=NOW, points=(), half_made=()):
    found = make_plan(
        Observed(
            now=now,
            install=INSTALL,
            repository_id="repo",
            entries=entries,
            identities={given.identity for given in entries if given.identity},
            active_jobs=active,
            bases={} if bases is None else bases,
            points=points,
            unreadable_points=(),
            leftovers=Leftovers(tuple(snapshots), (), tuple(vms)),
            half_made=half_made,
            vms={"proxy": proxy(*disks), **(there or {})},
            life_s=1e6,
        )
    )
    return [(action.verb, action.identity) for action in found]


# --- snapshots ---


def test_a_snapshot_that_no_point_needs_goes():
    assert plan(entry(Kind.SNAPSHOT, identity="s1"), snapshots=[snapshot("s1")]) == [(Verb.DELETE_SNAPSHOT, "s1")]


def test_the_base_of_a_committed_point_is_never_touched():
    assert plan(entry(Kind.SNAPSHOT, identity="s1"), snapshots=[snapshot("s1")], bases={"s1": "p1"}) == []


def test_a_base_that_would_expire_is_put_off():
    near = snapshot("s1", expires_at=NOW + 4e5)
    found = plan(entry(Kind.SNAPSHOT, identity="s1"), snapshots=[near], bases={"s1": "p1"})
    assert found == [(Verb.EXTEND_SNAPSHOT, "s1")]


def test_what_a_running_job_made_stays():
    entries = [entry(kind, identity="x") for kind in Kind]
    assert plan(*entries, snapshots=[snapshot("x")], disks=[disk(vmdisk="x")], active=[JOB]) == []


def test_while_the_repository_does_not_answer_snapshots_stay():
    given = entry(Kind.SNAPSHOT, identity="s1")
    seen = Observed(
        NOW, INSTALL, "repo", [given], (), (), None, (), (), Leftovers((snapshot("s1"),), (), ()), (), {}, 1e6
    )
    assert make_plan(seen) == []


def test_the_base_of_another_repository_is_not_ours_to_judge():
    given = entry(Kind.SNAPSHOT, identity="s1", repository="another")
    assert plan(given, snapshots=[snapshot("s1")]) == []


def test_a_snapshot_whose_manifest_may_still_come_waits_for_it():
    given = entry(Kind.SNAPSHOT, identity="s1", point="p1", committing_at=NOW)
    assert plan(given, snapshots=[snapshot("s1")]) == [(Verb.WAIT, "s1")]
    assert plan(given, snapshots=[snapshot("s1")], points=["p1"]) == [(Verb.DELETE_SNAPSHOT, "s1")]
    assert plan(given, snapshots=[snapshot("s1")], now=NOW + INTENT_LIFE_S) == [(Verb.DELETE_SNAPSHOT, "s1")]


def test_an_intended_snapshot_is_found_by_its_name():
    given = entry(Kind.SNAPSHOT)
    assert plan(given, snapshots=[snapshot("s1")]) == [(Verb.DELETE_SNAPSHOT, "s1")]
    assert plan(given) == [(Verb.WAIT, "")]
    assert plan(given, now=NOW + INTENT_LIFE_S) == [(Verb.CLOSE, "")]
    assert plan(entry(Kind.SNAPSHOT, settled=True)) == [(Verb.CLOSE, "")]


def test_a_deletion_that_did_not_happen_is_repeated():
    gone = entry(Kind.SNAPSHOT, identity="s1", state=State.GONE)
    assert plan(gone, snapshots=[snapshot("s1")]) == [(Verb.DELETE_SNAPSHOT, "s1")]
    assert plan(gone) == []


def test_a_snapshot_that_went_by_itself_closes_its_line():
    assert plan(entry(Kind.SNAPSHOT, identity="s1")) == [(Verb.CLOSE, "s1")]


def test_a_snapshot_of_our_name_that_the_ledger_lost_is_listed():
    assert plan(snapshots=[snapshot("s1")]) == [(Verb.LIST, "s1")]
    assert plan(snapshots=[snapshot("s1")], bases={"s1": "p"}) == []
    assert plan(snapshots=[snapshot("s1")], active=[JOB]) == []
    assert plan(snapshots=[snapshot("s1", name="mover-ffffffff-node1-00000000000000aa-snapshot-1")]) == []


# --- disks ---


def test_an_attachment_is_detached_by_its_identity():
    given = entry(Kind.ATTACHMENT, identity="new")
    assert plan(given, disks=[disk("scsi.9")]) == [(Verb.DETACH, "new")]
    assert plan(given) == [(Verb.CLOSE, "new")]
    assert plan(given, there={"proxy": None}) == [(Verb.CLOSE, "new")]


def test_an_intended_attachment_is_ours_by_slot_and_source_only():
    given = entry(Kind.ATTACHMENT)
    ours = disk(source_path="/snap/a")
    assert plan(given, disks=[ours]) == [(Verb.DETACH, "new")]
    for stranger in (
        dataclasses.replace(ours, slot=Slot("scsi", 4)),
        dataclasses.replace(ours, source_path="/snap/b"),
        dataclasses.replace(ours, source_path=None),
        dataclasses.replace(ours, vmdisk_uuid="old"),
        dataclasses.replace(ours, kind=DiskKind.CDROM),
    ):
        assert plan(given, disks=[stranger]) == [(Verb.WAIT, "")]
        assert plan(given, disks=[stranger], now=NOW + INTENT_LIFE_S) == [(Verb.CLOSE, "")]


def test_a_disk_that_another_line_names_is_not_what_this_one_intended():
    later = entry(Kind.ATTACHMENT, identity="new", state=State.GIVEN)
    in_our_vm = entry(Kind.TEMPORARY_DISK, is_own_vm=True)
    assert plan(entry(Kind.ATTACHMENT), later, disks=[disk(source_path="/snap/a")]) == [(Verb.WAIT, "")]
    assert plan(in_our_vm, later, disks=[disk()]) == [(Verb.WAIT, "")]


def test_a_clone_in_the_target_is_ours_by_the_disk_it_came_from():
    given = entry(Kind.ATTACHMENT, source_path=None, source_vmdisk="temp")
    assert plan(given, disks=[disk(source_vmdisk_uuid="temp")]) == [(Verb.DETACH, "new")]
    assert plan(given, disks=[disk(source_vmdisk_uuid="else")]) == [(Verb.WAIT, "")]


def test_an_empty_disk_is_ours_only_where_nobody_else_is_given_one():
    given = entry(Kind.TEMPORARY_DISK)
    assert plan(given, disks=[disk()]) == [(Verb.DETACH, "new")]
    assert plan(entry(Kind.TEMPORARY_DISK, is_told_by_slot=False), disks=[disk()]) == [(Verb.LIST, "new")]
    assert plan(given, disks=[disk()], now=NOW + INTENT_LIFE_S) == [(Verb.LIST, "new")]
    in_our_vm = entry(Kind.TEMPORARY_DISK, is_told_by_slot=False, is_own_vm=True)
    assert plan(in_our_vm, disks=[disk()], now=NOW + INTENT_LIFE_S, half_made=["proxy"]) == [(Verb.DETACH, "new")]
    # Once the VM is the user's, so may be the disk.
    assert plan(in_our_vm, disks=[disk()], now=NOW + INTENT_LIFE_S) == [(Verb.LIST, "new")]
    for stranger in (
        disk(size_bytes=2 * GIB),
        disk(container_uuid="another"),
        disk(source_path="/snap/a"),
        disk(vmdisk="old"),
    ):
        assert plan(given, disks=[stranger]) == [(Verb.WAIT, "")]


# --- VMs, hooks ---


def test_a_half_made_vm_goes():
    given = entry(Kind.VM, identity="v1")
    alive = Vm("v1", "web2", "c", None, False, ())
    assert plan(given, there={"v1": alive}) == [(Verb.DELETE_VM, "v1")]
    assert plan(given, there={"v1": None}) == [(Verb.CLOSE, "v1")]


def test_an_intended_vm_is_found_by_mark_and_name_but_never_a_finished_one():
    given = entry(Kind.VM)
    assert plan(given, vms=[("v1", "web2")]) == [(Verb.DELETE_VM, "v1")]
    assert plan(given, vms=[("other", "web2"), ("v2", "web3")]) == [(Verb.WAIT, "")]
    finished = entry(Kind.VM, identity="v1", state=State.GIVEN, job="00000000000000bb")
    assert plan(given, finished, vms=[("v1", "web2")]) == [(Verb.WAIT, "")]


def test_a_vm_that_a_running_job_is_just_making_is_not_taken_for_a_lost_one():
    lost, making = entry(Kind.VM), entry(Kind.VM, job="00000000000000bb")
    active = ["00000000000000bb"]
    assert plan(lost, making, vms=[("v2", "web2")], active=active) == [(Verb.WAIT, "")]
    assert plan(lost, making, vms=[("v2", "web2")], active=active, now=NOW + INTENT_LIFE_S) == [(Verb.WAIT, "")]
    made = dataclasses.replace(making, identity="v2", state=State.MADE)
    assert plan(lost, made, vms=[("v1", "web2"), ("v2", "web2")], active=active) == [(Verb.DELETE_VM, "v1")]


def test_hooks_run_before_anything_else():
    entries = [entry(Kind.SNAPSHOT, identity="s1"), entry(Kind.HOOK_POST)]
    found = plan(*entries, snapshots=[snapshot("s1")])
    assert [verb for verb, _ in found] == [Verb.RUN_HOOK, Verb.DELETE_SNAPSHOT]


# --- doing ---


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
    task = asyncio.create_task(backup_vm(w.node, request.values(), steps))
    await snapshotting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
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
    assert REGISTRY.get_sample_value("mover_orphans", {"kind": "snapshot"}) == 2


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
    await w.reconcile()
    assert await w.node.ledger.entries() == []
