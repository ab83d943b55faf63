"""Carry out what ``reconcile`` plans: look, plan, do; and the same for one job at its end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mover import logs
from mover.catalog.ledger import Entry, Kind, State
from mover.config import HookSettings
from mover.errors import (
    Damaged,
    HookFailed,
    MoverError,
    NoSuchPoint,
    NotFound,
    RepositoryError,
    StorageError,
    UsageError,
)
from mover.metrics import ORPHANS, ORPHANS_OLDEST
from mover.model.machine import Disk, Leftovers
from mover.model.point import PointSummary, RestorePoint
from mover.operations.attach import detach
from mover.operations.decide import newest_base
from mover.operations.hooks import run_hook
from mover.operations.names import job_of, prefix_of
from mover.operations.node import Node
from mover.operations.reconcile import DOING, Action, Observed, Verb, intent_life_s, make_plan

_LOG = logs.get(__name__)
_DISKS = (Kind.ATTACHMENT, Kind.TEMPORARY_DISK)
_OF_ORPHANS = (Verb.DELETE_SNAPSHOT, Verb.DETACH, Verb.DELETE_VM, Verb.RUN_HOOK, Verb.LIST)


@dataclass(frozen=True, slots=True)
class Done:
    """An action and how it went."""

    action: Action
    error: MoverError | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        action = self.action
        return {
            "action": str(action.verb),
            "kind": str(action.kind),
            "identity": action.identity,
            "vm_uuid": action.vm_uuid,
            "job": action.job,
            "reason": action.reason,
            "error": self.error.as_dict() if self.error else None,
        }


async def look(node: Node, *, ended_job: str | None = None, vm_uuid: str = "") -> Observed:
    """Gather what a plan needs.

    ended_job: count this job as over although it still runs. Of snapshots only its own are then looked at, and those
    of ``vm_uuid``: at the end of each job the points of all VMs would be read.
    """
    active = await node.active_jobs() - {ended_job}
    entries = await node.ledger.open_entries()
    vms = None if ended_job is None else {vm_uuid, *map(_vm_of, await node.ledger.entries(ended_job))} - {""}
    named = {str(entry.facts["vm_uuid"]) for entry in entries if entry.kind in _DISKS}
    made = {entry.identity for entry in entries if entry.kind is Kind.VM and entry.identity}
    bases, points = await _bases(node, vms)
    leftovers = await node.hypervisor.leftovers(prefix_of(node.install), node.proxy_uuid)
    disks = {uuid: await _disks(node, uuid) for uuid in sorted(named | made)}
    # Read after the cluster: whatever is there by then has had its line written before.
    written = await node.ledger.lines_about(
        identities=_identities(leftovers, disks),
        snapshot_jobs=[job for one in leftovers.snapshots if (job := job_of(one.name, node.install))],
    )
    seen_open = {entry.id for entry in entries}
    lingering = [line for line in written if _may_linger(line) and line.id not in seen_open]
    return Observed(
        now=node.clock.now(),
        install=node.install,
        repository_id=node.repository.id,
        entries=[entry for entry in [*entries, *lingering] if _is_of(entry, vms)],
        written=written,
        active_jobs=active,
        bases=bases,
        points=[point.id for point in points],
        unreadable_points=[point.id for point in points if point.problem],
        leftovers=leftovers,
        half_made=made,
        disks=disks,
        life_s=node.settings.prism.snapshot_life,
        intent_life_s=intent_life_s(node.settings.prism),
    )


def _identities(leftovers: Leftovers, disks: Mapping[str, tuple[Disk, ...] | None]) -> set[str]:
    """Of all that is there and may be ours."""
    found = {disk.vmdisk_uuid for there in disks.values() for disk in there or () if disk.vmdisk_uuid}
    found |= {disk.vmdisk_uuid for disk in leftovers.attachments}
    return found | {one.uuid for one in leftovers.snapshots} | {vm.uuid for vm in leftovers.vms}


def _is_of(entry: Entry, vms: Collection[str] | None) -> bool:
    """False for a snapshot of another VM's disks, and where it does not say whose."""
    return vms is None or entry.kind is not Kind.SNAPSHOT or _vm_of(entry) in vms


def _may_linger(entry: Entry) -> bool:
    """Closed lines that a plan is made for: deleted snapshots may still be there."""
    return entry.kind is Kind.SNAPSHOT and entry.state is State.GONE


def _vm_of(entry: Entry) -> str:
    """Of whose disks a snapshot is; empty for other kinds."""
    return str(entry.facts.get("vm_uuid", "")) if entry.kind is Kind.SNAPSHOT else ""


async def _bases(node: Node, vms: Collection[str] | None) -> tuple[dict[str, str] | None, list[PointSummary]]:
    """Snapshot → point, for the newest base of each VM (None: the repository cannot say); and all points.

    vms: of these alone; None: of all.
    """
    by_vm: dict[str, list[PointSummary]] = {}
    try:
        if vms is None:
            points = await node.repository.points()
        else:
            points = [point for uuid in sorted(vms) for point in await node.repository.points(uuid)]
        for point in points:
            by_vm.setdefault(point.vm_uuid, []).append(point)
        newest = [base for base in map(newest_base, by_vm.values()) if base is not None]
        loaded = [await _loaded(node, base) for base in newest]
    except (RepositoryError, StorageError, NoSuchPoint) as error:
        _LOG.warning("bases unknown, snapshots are left alone", error=error.message)
        return None, []
    bases = {one.snapshot_uuid: one.id for one in loaded if isinstance(one, RestorePoint) and one.snapshot_uuid}
    unreadable = {one.id: one for one in loaded if isinstance(one, PointSummary)}
    return bases, [unreadable.get(point.id, point) for point in points]


async def _loaded(node: Node, base: PointSummary) -> RestorePoint | PointSummary:
    """Where its manifest is damaged behind the head, its line with that problem: it does not hide what others need."""
    try:
        return await node.repository.load(base)
    except Damaged as error:
        return replace(base, problem=error.message)


async def _disks(node: Node, vm_uuid: str) -> tuple[Disk, ...] | None:
    try:
        return await node.hypervisor.disks(vm_uuid)
    except NotFound:
        return None


async def reconcile(node: Node, *, apply: bool) -> list[Done]:
    """Compare everything, and do what is to be done if ``apply``. Errors stand in the result."""
    seen = await look(node)
    plan = make_plan(seen)
    done = await carry_out(node, plan) if apply else [Done(action) for action in plan]
    publish_orphans(seen, [item.action for item in done if not apply or item.error or item.action.verb is Verb.LIST])
    if not apply:
        return done
    if seen.bases is not None:
        there = {snapshot.uuid for snapshot in seen.leftovers.snapshots}
        node.board.standing.lose_bases([point for uuid, point in seen.bases.items() if uuid not in there])
    return done


async def forget_the_past(node: Node) -> MoverError | None:
    """Of the ledger and the book of jobs: beside each reconcile, whose outcome it does not touch. Gives what the book
    answers where it cannot be changed; it is tried again the next time."""
    await node.ledger.prune(older_than_s=2 * node.settings.prism.snapshot_life)
    try:
        await node.forget_jobs()
    except MoverError as error:
        _LOG.warning("ended jobs are not forgotten", code=error.code, error=error.message, remedy=error.remedy)
        return error
    return None


def publish_orphans(seen: Observed, left: Sequence[Action]) -> None:
    """Tell the metrics of what is there and nobody needs: neither a base to be extended nor a mere line is that."""
    orphans = [action for action in left if action.verb in _OF_ORPHANS]
    made = {snapshot.uuid: snapshot.created_at for snapshot in seen.leftovers.snapshots}
    for kind in Kind:
        times = [
            action.entry.intended_at if action.entry else made.get(action.identity) or seen.now
            for action in orphans
            if action.kind is kind
        ]
        ORPHANS.labels(kind).set(len(times))
        if times:
            ORPHANS_OLDEST.labels(kind).set(min(times))
        else:
            ORPHANS_OLDEST.remove(kind)


async def forget(node: Node, identity: str) -> Done:
    """Never list this thing again, nor touch it: the operator answers for it. Raises UsageError if it is not listed."""
    listed = [action for action in make_plan(await look(node)) if action.verb is Verb.LIST]
    found = [action for action in listed if identity and action.identity.startswith(identity.lower())]
    if len(found) != 1:
        if not listed:
            raise UsageError(
                f"mover orphans shows nothing to look at, so there is no {identity!r} to forget",
                remedy="Leave it: what is not shown is not touched either.",
            )
        what = "begins the UUIDs of several things" if found else "is no UUID of a thing"
        raise UsageError(
            f"{identity!r} {what} that mover orphans shows to look at",
            remedy=f"Write one of: {', '.join(action.identity for action in listed)}.",
        )
    action = found[0]
    if action.entry is not None:
        await node.ledger.forget(action.entry, action.identity)
    else:
        await node.ledger.forget_stranger(action.kind, action.identity)
    return Done(action)


async def settle(node: Node, job: str, *, vm_uuid: str = "") -> list[Action]:
    """At the end of a job: clean up after it, and let former bases of its VM go. Gives what stays owed.

    Never raises for what the cluster or the store answers: the ledger keeps it for the next time.
    """
    try:
        plan = make_plan(await look(node, ended_job=job, vm_uuid=vm_uuid))
    except MoverError as error:
        _LOG.warning("cleaning up is put off", error=error.message)
        return [Action(Verb.WAIT, entry.kind, error.message, job=job) for entry in await node.ledger.open_entries(job)]
    mine = [action for action in plan if action.job == job or _is_former_base(action, vm_uuid)]
    done = await carry_out(node, mine, ended_job=job)
    return [item.action for item in done if item.error or item.action.verb in (Verb.WAIT, Verb.LIST)]


def _is_former_base(action: Action, vm_uuid: str) -> bool:
    return action.kind is Kind.SNAPSHOT and action.vm_uuid == vm_uuid and action.verb is not Verb.LIST


async def drop_entry(node: Node, entry: Entry) -> None:
    """Let go of one attachment of an interrupted try. Raises what the hypervisor answers."""
    vm_uuid = str(entry.facts["vm_uuid"])
    seen = Observed(
        now=node.clock.now(),
        install=node.install,
        repository_id=node.repository.id,
        entries=[entry],
        written=await node.ledger.entries(entry.job),
        active_jobs=(),
        bases=None,
        points=(),
        unreadable_points=(),
        leftovers=Leftovers((), (), ()),
        half_made={line.identity for line in await node.ledger.open_entries(entry.job, Kind.VM) if line.identity},
        disks={vm_uuid: await _disks(node, vm_uuid)},
        life_s=node.settings.prism.snapshot_life,
        intent_life_s=intent_life_s(node.settings.prism),
    )
    for item in await carry_out(node, make_plan(seen), ended_job=entry.job):
        if item.error is not None:
            raise item.error


async def carry_out(node: Node, plan: Sequence[Action], *, ended_job: str | None = None) -> list[Done]:
    """Do the actions in order; one that fails does not keep the others, one that is not due any more is left out."""
    done = []
    for action in plan:
        try:
            if action.verb in DOING:
                if not await _is_due(node, action, ended_job):
                    continue
                await _do(node, action)
            done.append(Done(action))
        except MoverError as error:
            _LOG.warning("cleaning up failed", action=str(action.verb), identity=action.identity, error=error.message)
            done.append(Done(action, error))
    return done


async def _is_due(node: Node, action: Action, ended_job: str | None) -> bool:
    """Since the plan was made, the job was not ordered again, nor the thing given to the user or forgotten."""
    entry = action.entry
    assert entry is not None
    if entry.job != ended_job and entry.job in await node.active_jobs():
        return False
    return (await node.ledger.entry(entry.id)).state not in (State.GIVEN, State.FORGOTTEN)


async def _do(node: Node, action: Action) -> None:
    entry = action.entry
    assert entry is not None
    if action.verb is Verb.EXTEND_SNAPSHOT:
        life = node.settings.prism.snapshot_life
        await node.hypervisor.extend_snapshot(action.identity, node.clock.now() + life)
        return
    if action.verb is Verb.DETACH:
        if entry.identity is None:
            # From now on this line means this disk, and never again what stands in its slot.
            entry = await node.ledger.made(entry, action.identity)
        await detach(node, action.vm_uuid, action.identity)
    elif action.verb is Verb.DELETE_VM:
        await node.hypervisor.delete_vm(action.identity)
    elif action.verb is Verb.DELETE_SNAPSHOT:
        await node.hypervisor.delete_snapshot(action.identity)
    elif action.verb is Verb.RUN_HOOK:
        await run_owed_hook(node, entry)
        return
    await node.ledger.gone(entry)
    _LOG.info("cleaned up", action=str(action.verb), identity=action.identity, reason=action.reason)


async def run_owed_hook(node: Node, entry: Entry) -> str | None:
    """Run a post-snapshot command that is owed; once it has run, however it ended, it is not owed any more.

    Gives a warning in words, or raises HookFailed, as its policy says.
    """
    settings = HookSettings.model_validate(entry.facts["hook"])
    try:
        warning = await run_hook(settings, entry.facts["values"], which="post-snapshot")
    except HookFailed:
        await node.ledger.gone(entry)
        raise
    await node.ledger.gone(entry)
    return warning
