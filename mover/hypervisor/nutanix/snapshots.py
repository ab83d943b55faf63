"""Snapshots by v3 on the Element: made under a key, waited for, extended, deleted, found again."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mover.errors import Conflict, EffectUnknown, NotFound, SnapshotIncomplete, UnsupportedEndpoint
from mover.hypervisor.nutanix import v3
from mover.hypervisor.nutanix.paging import list_v3
from mover.hypervisor.nutanix.patience import past_conflicts
from mover.hypervisor.nutanix.reading import strings, uuid
from mover.hypervisor.nutanix.session import Session
from mover.hypervisor.nutanix.tasks import wait_for_v3
from mover.model.machine import Consistency, Snapshot, SnapshotState

_FIRST_LOOK_S = 0.1
_LONGEST_LOOK_S = 5.0
# A VM just created or restored may be unknown to vm_snapshots for a short time (reference, trap 12).
_NEW_VM_GRACE_S = 60.0
# And a snapshot just accepted may not be readable yet.
_NEW_SNAPSHOT_GRACE_S = 30.0
# COMPLETE comes before the file list by seconds, where it does at all.
_FILES_GRACE_S = 60.0


async def reserve(session: Session, key: str) -> str:
    """The UUID that belongs to a key. Idempotent: the same key always gives the same one."""
    answer = await session.post("v3", "idempotence_identifiers", v3.identifier_body(key))
    found = strings(answer, "uuid_list")
    if not found or not found[0]:
        raise UnsupportedEndpoint(
            f"{session.address} gave no idempotence identifier",
            remedy="This Prism cannot make snapshots safely: report its version.",
        )
    return found[0].lower()


async def make_snapshot(
    session: Session, vm_uuid: str, *, name: str, consistency: Consistency, key: str, expires_at: float
) -> Snapshot:
    """Freeze a VM and wait for its files. Idempotent under ``key``: a snapshot that exists is only waited for.

    Raises NotFound (the VM), SnapshotIncomplete.
    """
    snapshot_uuid = await reserve(session, f"{key}-snapshot")
    if await find_snapshot(session, snapshot_uuid) is None:
        body = v3.snapshot_body(
            snapshot_uuid=snapshot_uuid, vm_uuid=vm_uuid, name=name, consistency=consistency, expires_at=expires_at
        )
        await _request(session, vm_uuid, body)
    return await _until_complete(session, snapshot_uuid, name)


async def _request(session: Session, vm_uuid: str, body: dict[str, object]) -> None:
    """POST under a reserved UUID; 202 and 409 both mean that it exists. Idempotent."""
    clock = session.clock
    deadline = clock.monotonic() + _NEW_VM_GRACE_S
    pause_s = _FIRST_LOOK_S
    while True:
        try:
            await session.post("v3", "vm_snapshots", body)
            return
        except Conflict:
            # Either it exists, or the VM is busy with somebody else's change.
            if await find_snapshot(session, uuid(body, "metadata", "uuid")) is not None:
                return
            if clock.monotonic() >= deadline:
                raise
        except NotFound:
            await session.get("v3", f"vms/{vm_uuid}")
            if clock.monotonic() >= deadline:
                raise
        await clock.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_LOOK_S)


async def _until_complete(session: Session, snapshot_uuid: str, name: str) -> Snapshot:
    clock = session.clock
    begun = clock.monotonic()
    complete_since: float | None = None
    pause_s, was_seen = _FIRST_LOOK_S, False
    while True:
        found = await find_snapshot(session, snapshot_uuid)
        now = clock.monotonic()
        if found is None:
            if was_seen or now - begun > _NEW_SNAPSHOT_GRACE_S:
                raise _incomplete(name, snapshot_uuid, "it vanished")
        elif found.state is SnapshotState.ERROR:
            raise _incomplete(name, snapshot_uuid, found.problem or "Prism gives no reason")
        elif found.state is SnapshotState.COMPLETE:
            if found.files:
                return found
            complete_since = now if complete_since is None else complete_since
            if now - complete_since > _FILES_GRACE_S:
                raise _incomplete(name, snapshot_uuid, "it is complete, but lists no file")
        was_seen = was_seen or found is not None
        # What became complete late has its time for the list all the same.
        if now - begun > session.task_timeout_s + (_FILES_GRACE_S if complete_since is not None else 0.0):
            raise _incomplete(name, snapshot_uuid, f"it is not complete after {session.task_timeout_s:.0f} s")
        await clock.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_LOOK_S)


async def find_snapshot(session: Session, snapshot_uuid: str) -> Snapshot | None:
    """Look; None when it does not exist."""
    try:
        return v3.read_snapshot(await session.get("v3", f"vm_snapshots/{snapshot_uuid}"))
    except NotFound:
        return None


async def extend_snapshot(session: Session, snapshot_uuid: str, expires_at: float) -> None:
    """Put off its expiry. Idempotent; on an edit conflict it is read again. Raises NotFound, Conflict."""

    async def put() -> Any:
        entity = await session.get("v3", f"vm_snapshots/{snapshot_uuid}")
        body = v3.extension_body(entity, expires_at)
        return await session.call("PUT", "v3", f"vm_snapshots/{snapshot_uuid}", body=body)

    answer = await past_conflicts(session.clock, put)
    try:
        await wait_for_v3(session, answer, what=f"extend snapshot {snapshot_uuid}")
    except EffectUnknown:
        if not _lasts_until(expires_at, await find_snapshot(session, snapshot_uuid)):
            raise


def _lasts_until(expires_at: float, found: Snapshot | None) -> bool:
    # Prism keeps milliseconds.
    return found is not None and found.expires_at is not None and abs(found.expires_at - expires_at) < 1.0


async def delete_snapshot(session: Session, snapshot_uuid: str) -> None:
    """Idempotent: gone already is success. Returns when its deletion is accepted. Raises Conflict."""
    with suppress(NotFound):
        await past_conflicts(session.clock, lambda: session.call("DELETE", "v3", f"vm_snapshots/{snapshot_uuid}"))


async def list_snapshots(session: Session, name_prefix: str) -> tuple[Snapshot, ...]:
    """All whose name begins so. Only reads."""
    found = await list_v3(session, "vm_snapshot", v3.read_snapshot)
    return tuple(snapshot for snapshot in found if snapshot.name.startswith(name_prefix))


def _incomplete(name: str, snapshot_uuid: str, why: str) -> SnapshotIncomplete:
    return SnapshotIncomplete(
        f"Snapshot {name} did not become usable: {why}",
        remedy="Look at the VM's tasks in Prism (storage, guest tools), then run the backup again.",
        snapshot_uuid=snapshot_uuid,
        why=why,
    )
