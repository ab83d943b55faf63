"""What of ours is on the cluster, who needs it, and what is to be done about the rest. Pure.

Compared are the ledger, the jobs that run or will go on, the committed manifests, and what
the cluster really has. A plan is a list of actions with reasons; ``clean`` carries it out.
Only our own install's things; never the base of a committed point; an intent stays until
its call cannot take effect any more; what cannot be told from an administrator's disk is
listed for the operator, who may say that it is none of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mover.catalog.ledger import Entry, Kind, State
from mover.config import PrismSettings
from mover.hypervisor.protocol import BUSY_WITHIN_S
from mover.model.machine import Attachment, Disk, DiskKind, Leftovers, MarkedVm, Slot, Snapshot
from mover.operations.names import job_of
from mover.units import format_size

_AFTERWARDS_S = 900.0
INTENT_LIFE_S = 4200.0
"""After this, at the least, a call that was sent has taken effect or never will: ``intent_life_s`` of the defaults."""
_TOLD_BY_SLOT_S = 900.0
"""So long after its intent an empty disk in our slot is held for ours; later it may be an administrator's."""
_COMMIT_LIFE_S = 900.0
"""After this a manifest that was being written is there or never will be."""


def intent_life_s(prism: PrismSettings) -> float:
    """How long after an intent was written its call may take effect.

    While the VM is busy the call is sent again; the last look before it and the call itself may each have to wait
    for Prism; then its task runs, and a quarter of an hour is for a task that nobody waits for any more.
    """
    return max(INTENT_LIFE_S, BUSY_WITHIN_S + 2 * prism.retry_budget + prism.task_timeout + _AFTERWARDS_S)


class Verb(StrEnum):
    """What is to be done."""

    DELETE_SNAPSHOT = "delete snapshot"
    EXTEND_SNAPSHOT = "extend snapshot"
    DETACH = "detach disk"
    DELETE_VM = "delete half-made VM"
    RUN_HOOK = "run post-snapshot command"
    CLOSE = "close entry"
    """The thing does not exist: only the ledger's line is to be ended."""
    WAIT = "wait"
    """The call that would make it may still take effect."""
    LIST = "look at"
    """For the operator: we do not touch it."""


DOING = (Verb.DELETE_SNAPSHOT, Verb.EXTEND_SNAPSHOT, Verb.DETACH, Verb.DELETE_VM, Verb.RUN_HOOK, Verb.CLOSE)


@dataclass(frozen=True, slots=True)
class Action:
    """One line of the plan: what, to what, why."""

    verb: Verb
    kind: Kind
    reason: str
    identity: str = ""
    """UUID of the snapshot, vmdisk or VM; empty where nothing exists."""
    vm_uuid: str = ""
    """The VM that the disk is plugged into."""
    job: str = ""
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a plan is made from."""

    now: float
    install: str
    repository_id: str
    entries: Sequence[Entry]
    """Open ones, and those of snapshots that should be gone."""
    written: Sequence[Entry]
    """Lines in any state that may speak of what is there, read after it: what one names, no other one intended."""
    active_jobs: Collection[str]
    bases: Mapping[str, str] | None
    """Snapshot UUID → restore point, of the bases of committed points; None: the repository did not say."""
    points: Collection[str]
    """All that are listed in the repository."""
    unreadable_points: Collection[str]
    """Points whose manifest is damaged: what they need is not known, so it stays."""
    leftovers: Leftovers
    half_made: Collection[str]
    """VMs that a restore made and has not given to the user."""
    disks: Mapping[str, Collection[Disk] | None]
    """What is in the VMs that entries name, now; None: the VM is gone."""
    life_s: float
    """How long a snapshot is made to live: at half of it, a base's is put off."""
    intent_life_s: float = INTENT_LIFE_S
    """How long after its intent a call may take effect."""


def make_plan(seen: Observed) -> list[Action]:
    """Actions in the order to be carried out: thaw first, then disks, VMs, snapshots."""
    plans: dict[Kind, Callable[[Entry, Observed], Iterator[Action]]] = {
        Kind.HOOK_POST: _plan_hook,
        Kind.ATTACHMENT: _plan_disk,
        Kind.TEMPORARY_DISK: _plan_disk,
        Kind.VM: _plan_vm,
        Kind.SNAPSHOT: _plan_snapshot,
    }
    actions: list[Action] = []
    for kind, plan in plans.items():
        for entry in seen.entries:
            if entry.kind is kind and entry.job not in seen.active_jobs:
                actions.extend(plan(entry, seen))
    return [*actions, *_stray_disks(seen), *_strangers(seen)]


def _plan_hook(entry: Entry, _seen: Observed) -> Iterator[Action]:
    if entry.is_open:
        yield _action(Verb.RUN_HOOK, entry, "its job ended before it had run")


def _plan_disk(entry: Entry, seen: Observed) -> Iterator[Action]:
    if not entry.is_open:
        return
    disks = seen.disks.get(entry.facts["vm_uuid"])
    if disks is None:
        yield _action(Verb.CLOSE, entry, "the VM that it was plugged into is gone")
    elif entry.identity is not None:
        there = any(disk.vmdisk_uuid == entry.identity for disk in disks)
        reason = "its job is over" if there else "it is not plugged in any more"
        yield _action(Verb.DETACH if there else Verb.CLOSE, entry, reason, entry.identity)
    else:
        yield _plan_intended_disk(entry, disks, seen)


def _plan_intended_disk(entry: Entry, disks: Collection[Disk], seen: Observed) -> Action:
    facts = entry.facts
    slot = Slot.parse(facts["slot"])
    known = {*facts["known"], *(line.identity for line in seen.written)}
    disk = next((disk for disk in disks if disk.slot == slot and disk.vmdisk_uuid not in known), None)
    if disk is None or disk.kind is not DiskKind.DISK or disk.vmdisk_uuid is None:
        return _absent(entry, seen)
    if _is_clone_of(disk, entry):
        return _action(Verb.DETACH, entry, "our slot and our source: its job is over", disk.vmdisk_uuid)
    if not _is_like_empty(disk, entry):
        return _absent(entry, seen)
    if facts.get("is_own_vm") and facts["vm_uuid"] in seen.half_made:
        return _action(Verb.DETACH, entry, "an empty disk in a VM that this job made", disk.vmdisk_uuid)
    if facts.get("is_told_by_slot") and seen.now - entry.intended_at < _TOLD_BY_SLOT_S:
        return _action(
            Verb.DETACH, entry, "an empty disk as we ordered it, where nobody else is given one", disk.vmdisk_uuid
        )
    return _action(
        Verb.LIST,
        entry,
        f"an empty disk of {format_size(disk.size_bytes)} in {slot} of VM {facts['vm_uuid']}, where a restore asked"
        f" for one and got no answer: it may be ours or an administrator's. {_by_hand(disk.vmdisk_uuid)}",
        disk.vmdisk_uuid,
    )


def _by_hand(identity: str) -> str:
    return (
        "If nobody needs it, detach it in Prism, which deletes it. "
        f"If somebody does, say so: mover orphans --forget {identity[:8]}"
    )


def _is_clone_of(disk: Disk, entry: Entry) -> bool:
    path, vmdisk = entry.facts.get("source_path"), entry.facts.get("source_vmdisk")
    return bool((path and disk.source_path == path) or (vmdisk and disk.source_vmdisk_uuid == vmdisk))


def _is_like_empty(disk: Disk, entry: Entry) -> bool:
    facts = entry.facts
    return (
        disk.source_path is None
        and disk.source_vmdisk_uuid is None
        and disk.size_bytes == facts.get("size_bytes")
        and disk.container_uuid == facts.get("container")
    )


def _absent(entry: Entry, seen: Observed) -> Action:
    if entry.facts.get("settled"):
        return _action(Verb.CLOSE, entry, "it was refused and never made")
    if seen.now - entry.intended_at >= seen.intent_life_s:
        return _action(Verb.CLOSE, entry, "it was never made")
    return _action(Verb.WAIT, entry, "the call that makes it may still take effect")


def _plan_vm(entry: Entry, seen: Observed) -> Iterator[Action]:
    if not entry.is_open:
        return
    there = _vms_of(entry, seen)
    for uuid in there:
        yield _action(Verb.DELETE_VM, entry, "its restore did not finish", uuid)
    if not there:
        yield _action(Verb.CLOSE, entry, "it does not exist any more") if entry.identity else _absent(entry, seen)


def _vms_of(entry: Entry, seen: Observed) -> list[str]:
    """The half-made VM: by its UUID, or new since the intent, of its key and the name wanted, and nobody else's."""
    if entry.identity:
        return [entry.identity] if seen.disks.get(entry.identity) is not None else []
    others = {other.identity for other in seen.written if other.kind is Kind.VM} | set(entry.facts["known"])
    return [vm.uuid for vm in seen.leftovers.vms if _is_made_for(entry, vm) and vm.uuid not in others]


def _is_made_for(entry: Entry, vm: MarkedVm) -> bool:
    """Other restores have other keys; a clone of what they made bears theirs."""
    return vm.name == entry.facts["name"] and vm.mark.startswith(f"{entry.facts['key']}:")


def _plan_snapshot(entry: Entry, seen: Observed) -> Iterator[Action]:
    snapshot = _snapshot_of(entry, seen.leftovers)
    if snapshot is None:
        if entry.is_open:
            yield _action(Verb.CLOSE, entry, "it does not exist any more") if entry.identity else _absent(entry, seen)
        return
    repository = entry.facts.get("repository")
    if repository != seen.repository_id:
        return
    wanted_by = entry.facts.get("point")
    if seen.bases is None or wanted_by in seen.unreadable_points:
        return
    if wanted_by not in seen.points and seen.now - entry.facts.get("committing_at", 0.0) < _COMMIT_LIFE_S:
        yield _action(Verb.WAIT, entry, "the manifest that makes it a base may still be written", snapshot.uuid)
        return
    point = seen.bases.get(snapshot.uuid)
    if point is None:
        yield _action(Verb.DELETE_SNAPSHOT, entry, "no committed point needs it as a base", snapshot.uuid)
    elif snapshot.expires_at is not None and snapshot.expires_at - seen.now < seen.life_s / 2:
        yield _action(Verb.EXTEND_SNAPSHOT, entry, f"it is the base of {point[:8]} and would expire", snapshot.uuid)


def _snapshot_of(entry: Entry, leftovers: Leftovers) -> Snapshot | None:
    for snapshot in leftovers.snapshots:
        if snapshot.uuid == entry.identity or (entry.identity is None and snapshot.name == entry.facts["name"]):
            return snapshot
    return None


def _stray_disks(seen: Observed) -> Iterator[Action]:
    """Clones of snapshots' files on the Proxy VM that no open line speaks of."""
    lines = [line for line in seen.written if line.kind in (Kind.ATTACHMENT, Kind.TEMPORARY_DISK)]
    for disk in seen.leftovers.attachments:
        line = _line_of(disk, lines)
        if line is None:
            yield _stray(disk, seen)
        elif line.state is State.GONE and line.job not in seen.active_jobs:
            reason = "it was taken for gone, and is there: " + ("recorded by" if line.identity else "our slot and")
            reason += " its UUID" if line.identity else " our source"
            yield _action(Verb.DETACH, line, reason, disk.vmdisk_uuid)


def _line_of(disk: Attachment, lines: Sequence[Entry]) -> Entry | None:
    """The line that speaks of a disk: that names it; else that ordered it, from that source into that slot."""
    named = [line for line in lines if line.identity == disk.vmdisk_uuid]
    ordered = [
        line
        for line in lines
        if line.identity is None
        and line.facts["vm_uuid"] == disk.vm_uuid
        and line.facts["slot"] == str(disk.slot)
        and line.facts.get("source_path") == disk.source_path
        and disk.vmdisk_uuid not in line.facts["known"]
    ]
    return next(reversed(named or ordered), None)


def _stray(disk: Attachment, seen: Observed) -> Action:
    """We cannot know that it is ours: somebody else may have cloned the same file."""
    source = next(
        (one for one in seen.leftovers.snapshots if any(file.path == disk.source_path for file in one.files)), None
    )
    whose = (
        f"snapshot {source.name} of this installation: most likely ours, from before its ledger was lost"
        if source is not None
        else f"a snapshot that does not bear our name ({disk.source_path}): another mover's, or somebody's else"
    )
    reason = f"a clone of {format_size(disk.size_bytes)} in {disk.slot} of the Proxy VM, made from {whose}. "
    job = job_of(source.name, seen.install) if source is not None else None
    return Action(
        Verb.LIST,
        Kind.ATTACHMENT,
        reason + _by_hand(disk.vmdisk_uuid),
        identity=disk.vmdisk_uuid,
        vm_uuid=disk.vm_uuid,
        job=job or "",
    )


def _strangers(seen: Observed) -> Iterator[Action]:
    """Snapshots of our install that the ledger does not know: it was lost or replaced."""
    known = {entry.identity for entry in seen.written} | {entry.facts.get("name") for entry in seen.written}
    for snapshot in seen.leftovers.snapshots:
        job = job_of(snapshot.name, seen.install)
        is_needed = snapshot.uuid in (seen.bases or {}) or job in seen.active_jobs
        if job is None or is_needed or snapshot.uuid in known or snapshot.name in known:
            continue
        reason = (
            f"{snapshot.name} bears our name but is not in the ledger: if no repository uses it as a base, delete it "
            f"(Prism Element's v3 vm_snapshots/{snapshot.uuid}), or let it expire. "
            f"To have it listed no more: mover orphans --forget {snapshot.uuid[:8]}"
        )
        yield Action(Verb.LIST, Kind.SNAPSHOT, reason, identity=snapshot.uuid, vm_uuid=snapshot.vm_uuid, job=job)


def _action(verb: Verb, entry: Entry, reason: str, identity: str = "") -> Action:
    return Action(
        verb,
        entry.kind,
        reason,
        identity=identity or entry.identity or "",
        vm_uuid=str(entry.facts.get("vm_uuid", "")),
        job=entry.job,
        entry=entry,
    )
