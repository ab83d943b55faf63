"""The plan of reconcile: pure, from what was seen."""

from __future__ import annotations

import dataclasses

from mover.catalog.ledger import Entry, Kind, State
from mover.config import PrismSettings
from mover.hypervisor.protocol import BUSY_WITHIN_S
from mover.model.machine import (
    Attachment,
    Consistency,
    Disk,
    DiskKind,
    Leftovers,
    MarkedVm,
    Slot,
    Snapshot,
    SnapshotFile,
    SnapshotState,
)
from mover.operations.reconcile import INTENT_LIFE_S, Observed, Verb, intent_life_s, make_plan
from mover.units import GIB
from tests.support.fakehypervisor import CONTAINER

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
        Kind.VM: {"name": "web2", "key": "job-vm-1", "known": ["other"]},
        Kind.HOOK_POST: {"hook": {}, "values": {}},
    }[kind]
    state = state or (State.MADE if identity else State.INTENDED)
    return Entry(1, job, kind, 0, 1, state, identity, {**standard, **facts}, at)


def snapshot(uuid, name=NAME, expires_at=NOW + 1e6):
    return Snapshot(uuid, name, "vm", SnapshotState.COMPLETE, Consistency.CRASH, expires_at=expires_at)


def disk(slot="scsi.3", vmdisk="new", **facts):
    standard = {"size_bytes": GIB, "container_uuid": CONTAINER}
    return Disk("device", Slot.parse(slot), DiskKind.DISK, vmdisk_uuid=vmdisk, **{**standard, **facts})


def plan(*entries, **seen):
    return [(action.verb, action.identity) for action in actions(*entries, **seen)]


def actions(
    *entries,
    snapshots=(),
    disks=(),
    vms=(),
    bases=None,
    active=(),
    there=None,
    now=NOW,
    points=(),
    half_made=(),
    closed=(),
    plugged=(),
    intent_life_s=INTENT_LIFE_S,
):
    return make_plan(
        Observed(
            now=now,
            install=INSTALL,
            repository_id="repo",
            entries=entries,
            written=[*entries, *closed],
            active_jobs=active,
            bases={} if bases is None else bases,
            points=points,
            unreadable_points=(),
            leftovers=Leftovers(tuple(snapshots), tuple(plugged), tuple(vms)),
            half_made=half_made,
            disks={"proxy": disks, **(there or {})},
            life_s=1e6,
            intent_life_s=intent_life_s,
        )
    )


def test_an_intent_outlives_whatever_may_still_be_sent_or_take_effect():
    """An attach is sent again while the VM is busy, for a quarter of an hour; its task may then take task_timeout."""
    given, last = entry(Kind.ATTACHMENT), NOW + BUSY_WITHIN_S + PrismSettings().task_timeout
    assert plan(given, now=last) == [(Verb.WAIT, "")]
    assert plan(given, now=last + 600) == [(Verb.WAIT, "")]
    assert plan(given, now=NOW + INTENT_LIFE_S) == [(Verb.CLOSE, "")]
    patient = intent_life_s(PrismSettings(task_timeout=7200.0, retry_budget=3600.0))
    assert patient > BUSY_WITHIN_S + 7200.0 + 2 * 3600.0
    assert plan(given, now=NOW + INTENT_LIFE_S, intent_life_s=patient) == [(Verb.WAIT, "")]
    assert plan(given, now=NOW + patient, intent_life_s=patient) == [(Verb.CLOSE, "")]


def test_an_intents_life_is_never_shorter_than_the_defaults_make_it():
    assert intent_life_s(PrismSettings()) == INTENT_LIFE_S
    assert intent_life_s(PrismSettings(task_timeout=5.0)) == INTENT_LIFE_S


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
        NOW, INSTALL, "repo", [given], [given], (), None, (), (), Leftovers((snapshot("s1"),), (), ()), (), {}, 1e6
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
    for age_s in (900.0, INTENT_LIFE_S):
        assert plan(given, disks=[disk()], now=NOW + age_s) == [(Verb.LIST, "new")]
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


# --- clones on the Proxy VM that no open line speaks of ---


def clone(slot="scsi.3", vmdisk="new", path="/snap/a"):
    return Attachment("proxy", Slot.parse(slot), vmdisk, "device", GIB, source_path=path)


def test_a_clone_that_was_taken_for_gone_is_detached_when_it_is_recorded():
    recorded = entry(Kind.ATTACHMENT, identity="new", state=State.GONE)
    ordered = entry(Kind.ATTACHMENT, state=State.GONE)
    assert plan(closed=[recorded], plugged=[clone("scsi.9")]) == [(Verb.DETACH, "new")]
    assert plan(closed=[ordered], plugged=[clone()]) == [(Verb.DETACH, "new")]
    for stranger in (clone("scsi.4"), clone(path="/snap/b"), clone(vmdisk="old")):
        assert plan(closed=[ordered], plugged=[stranger]) == [(Verb.LIST, stranger.vmdisk_uuid)]
    assert plan(closed=[recorded, ordered], plugged=[clone()], active=[JOB]) == []


def test_a_clone_that_a_line_cares_for_is_nobody_elses_business():
    for state in (State.GIVEN, State.FORGOTTEN):
        assert plan(closed=[entry(Kind.ATTACHMENT, identity="new", state=state)], plugged=[clone()]) == []
    running = entry(Kind.ATTACHMENT, identity="new")
    assert plan(running, plugged=[clone()], active=[JOB]) == []


def test_after_a_lost_ledger_clones_are_listed_with_what_tells_of_them():
    ours = dataclasses.replace(snapshot("s1"), files=(SnapshotFile("v", "/snap/a"),))
    found = actions(snapshots=[ours], bases={"s1": "p"}, plugged=[clone(), clone("scsi.4", "other", "/elsewhere")])
    assert [(action.verb, action.identity, action.job) for action in found] == [
        (Verb.LIST, "new", JOB),
        (Verb.LIST, "other", ""),
    ]
    assert f"1.00 GiB in scsi.3 of the Proxy VM, made from snapshot {NAME} of this installation" in found[0].reason
    assert "does not bear our name (/elsewhere)" in found[1].reason
    assert all(f"mover orphans --forget {action.identity}" in action.reason for action in found)


def test_what_the_operator_answers_for_is_not_listed():
    forgotten = [
        entry(Kind.SNAPSHOT, identity="s1", state=State.FORGOTTEN, name=""),
        entry(Kind.ATTACHMENT, identity="other", state=State.FORGOTTEN),
    ]
    assert plan(closed=forgotten, snapshots=[snapshot("s1")], plugged=[clone(vmdisk="other")]) == []


def test_an_empty_disk_that_may_be_anybodys_comes_with_what_to_do():
    [found] = actions(entry(Kind.TEMPORARY_DISK), disks=[disk()], now=NOW + INTENT_LIFE_S)
    assert found.verb is Verb.LIST
    for words in ("an empty disk of 1.00 GiB in scsi.3 of VM proxy", "detach it in Prism", "--forget new"):
        assert words in found.reason


# --- VMs, hooks ---


def test_a_half_made_vm_goes():
    given = entry(Kind.VM, identity="v1")
    assert plan(given, there={"v1": ()}) == [(Verb.DELETE_VM, "v1")]
    assert plan(given, there={"v1": None}) == [(Verb.CLOSE, "v1")]


def marked(uuid, name="web2", key="job-vm-1"):
    return MarkedVm(uuid, name, f"{key}: restored from p of web. The web server")


def test_an_intended_vm_is_found_by_its_key_and_name_but_never_a_finished_one():
    given = entry(Kind.VM)
    assert plan(given, vms=[marked("v1")]) == [(Verb.DELETE_VM, "v1")]
    assert plan(given, vms=[marked("other"), marked("v2", "web3")]) == [(Verb.WAIT, "")]
    finished = entry(Kind.VM, identity="v1", state=State.GIVEN)
    assert plan(given, finished, vms=[marked("v1")]) == [(Verb.WAIT, "")]


def test_a_clone_of_a_vm_that_was_restored_before_bears_its_mark_and_is_not_what_was_intended():
    """With the description; nor is what another restore of that name makes."""
    given, clones = entry(Kind.VM), [marked("v1", key="job-vm-10"), marked("v2", key="another-vm-1")]
    assert plan(given, vms=clones) == [(Verb.WAIT, "")]
    assert plan(given, vms=clones, now=NOW + INTENT_LIFE_S) == [(Verb.CLOSE, "")]
    assert plan(given, vms=[*clones, marked("v3")]) == [(Verb.DELETE_VM, "v3")]


def test_hooks_run_before_anything_else():
    entries = [entry(Kind.SNAPSHOT, identity="s1"), entry(Kind.HOOK_POST)]
    found = plan(*entries, snapshots=[snapshot("s1")])
    assert [verb for verb, _ in found] == [Verb.RUN_HOOK, Verb.DELETE_SNAPSHOT]
