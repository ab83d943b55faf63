"""Freeze a VM: commands before and after, the snapshot, and the proof that it holds every disk."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from mover import logs
from mover.catalog.ledger import Entry, Kind
from mover.errors import (
    ConsistencyDowngraded,
    EffectUnknown,
    HookFailed,
    LoginRefused,
    NotFound,
    RequestRefused,
    RightsMissing,
    SnapshotIncomplete,
)
from mover.model.machine import Consistency, Disk, Snapshot, SnapshotState, Vm
from mover.operations.clean import run_owed_hook
from mover.operations.hooks import run_hook
from mover.operations.node import Node
from mover.operations.request import BackupRequest

_LOG = logs.get(__name__)
_ROUNDS = 3
_TRIES = 3
_PAUSE_S = 5.0
# After these there is no snapshot and never will be; after others there may.
_REFUSALS = (NotFound, RequestRefused, RightsMissing, LoginRefused)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A VM, a snapshot of exactly it, and when it was made (Unix seconds)."""

    vm: Vm
    snapshot: Snapshot
    frozen_at: float
    warnings: tuple[str, ...]


async def freeze(node: Node, request: BackupRequest, *, job: str, seen: Vm, excluded: Collection[str]) -> Frozen:
    """Snapshot until the VM before and after is the same. excluded: device UUIDs without need of a file.

    Each try is a snapshot of its own in the ledger; those not used are let go by reconcile.
    Raises HookFailed, SnapshotIncomplete, ConsistencyDowngraded, and the hypervisor's.
    """
    await thaw(node, job)
    for _ in range(_ROUNDS):
        snapshot, frozen_at, warnings = await _snapshot_with_hooks(node, request, job)
        vm = await node.hypervisor.vm(request.vm_uuid)
        if shape(vm) == shape(seen):
            check_files(snapshot, [disk for disk in vm.data_disks() if disk.device_uuid not in excluded], vm.name)
            warnings += _downgrade(snapshot, request)
            return Frozen(vm, snapshot, frozen_at, tuple(warnings))
        _LOG.info("the VM changed while it was frozen: once more")
        seen = vm
    raise SnapshotIncomplete(
        f"{request.vm_name} changed its disks during each of {_ROUNDS} snapshots",
        remedy="Run the backup again when nobody changes the VM.",
        retryable=True,
    )


async def thaw(node: Node, job: str) -> None:
    """Run what an interrupted try still owes, before anything else."""
    for entry in await node.ledger.open_entries(job, Kind.HOOK_POST):
        await run_owed_hook(node, entry)


def shape(vm: Vm) -> list[tuple[object, ...]]:
    """What must not change around a snapshot: which disks there are, where, and how large."""
    return sorted((str(d.slot), d.kind, d.device_uuid, d.vmdisk_uuid, d.size_bytes) for d in vm.disks)


def check_files(snapshot: Snapshot, disks: Collection[Disk], vm_name: str) -> None:
    """Exactly one frozen file per disk, or SnapshotIncomplete with what is wrong."""
    if snapshot.state is not SnapshotState.COMPLETE:
        raise SnapshotIncomplete(
            f"The snapshot of {vm_name} did not become complete: {snapshot.problem or snapshot.state}",
            remedy="See the cluster's alerts and tasks for this VM, then run the backup again.",
        )
    names = [file.vmdisk_uuid for file in snapshot.files]
    for disk in disks:
        count = names.count(disk.vmdisk_uuid or "")
        if count != 1:
            raise SnapshotIncomplete(
                f"The snapshot of {vm_name} has {count or 'no'} file{'s' if count > 1 else ''} for disk {disk.slot}",
                remedy="Run the backup again; if it comes back, exclude the disk or ask the cluster's support.",
                disk=str(disk.slot),
            )


async def _snapshot_with_hooks(node: Node, request: BackupRequest, job: str) -> tuple[Snapshot, float, list[str]]:
    values = {"vm_name": request.vm_name, "vm_uuid": request.vm_uuid, "job_id": job}
    post, owed, warnings = request.hook("post"), None, []
    if post.command:
        facts = {"hook": dict(request.post_snapshot), "values": values}
        owed = await node.ledger.intend(Kind.HOOK_POST, job=job, ordinal=0, facts=facts)
    try:
        warnings.append(await run_hook(request.hook("pre"), values, which="pre-snapshot"))
        frozen_at = node.clock.now()
        snapshot = await _snapshot(node, request, job)
    except (Exception, asyncio.CancelledError):
        # Also when the mover is told to stop: an application must not stay frozen until it starts again.
        if owed is not None:
            await _thaw_anyway(node, owed)
        raise
    if owed is not None:
        warnings.append(await run_owed_hook(node, owed))
    return snapshot, frozen_at, [text for text in warnings if text]


async def _thaw_anyway(node: Node, owed: Entry) -> None:
    """What failed before is the error that counts; that this failed too stands in the log."""
    try:
        await run_owed_hook(node, owed)
    except HookFailed as error:
        _LOG.warning("post-snapshot command after a failure", error=error.message)


async def _snapshot(node: Node, request: BackupRequest, job: str) -> Snapshot:
    tries = await node.ledger.entries(job, Kind.SNAPSHOT)
    name = node.name(job, f"snapshot-{len(tries) + 1}")
    facts = {"name": name, "vm_uuid": request.vm_uuid, "repository": node.repository.id}
    facts["point"] = request.point_id
    entry = await node.ledger.intend(Kind.SNAPSHOT, job=job, ordinal=0, facts=facts)
    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            snapshot = await node.hypervisor.snapshot(
                request.vm_uuid,
                name=name,
                consistency=request.consistency,
                key=name,
                expires_at=node.clock.now() + node.settings.prism.snapshot_life,
            )
        except EffectUnknown:
            # The same key gives the same snapshot: here, asking again is looking.
            if last:
                raise
            await node.clock.sleep(_PAUSE_S)
        except _REFUSALS:
            await node.ledger.note(entry, settled=True)
            raise
        else:
            await node.ledger.made(entry, snapshot.uuid)
            return snapshot
    raise AssertionError("unreachable")


def _downgrade(snapshot: Snapshot, request: BackupRequest) -> list[str]:
    if request.consistency is not Consistency.APPLICATION or snapshot.consistency is Consistency.APPLICATION:
        return []
    text = f"An application-consistent snapshot of {request.vm_name} was asked, a crash-consistent one was made"
    if request.on_downgrade == "fail":
        raise ConsistencyDowngraded(
            text, remedy="Mend the guest tools in the VM, or accept it with --on-downgrade warn or --consistency crash."
        )
    return [text]
