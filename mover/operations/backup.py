"""The runbook of a backup: one VM becomes one restore point. Each ``step`` is durable.

Entry point: ``backup_vm(node, values, steps)``, values being a ``BackupRequest``. It may be
killed anywhere and run again from its top: finished steps give their recorded result.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import mover
from mover import logs
from mover.catalog.ledger import Kind
from mover.errors import Damaged, JobCancelled, MoverError
from mover.jobs.steps import Call, Steps, Values
from mover.model.machine import Disk, SnapshotState, Vm
from mover.model.point import DiskImage, OtherDevice, ReadMode, RestorePoint, SlicePlace, Touched
from mover.operations.checks import check_proxy, check_space, warnings_of
from mover.operations.clean import settle
from mover.operations.copy import CopyJob, DiskPlan, copy_one, node_ids_of
from mover.operations.decide import Base, newest_base
from mover.operations.freeze import Frozen, freeze
from mover.operations.node import Node
from mover.operations.planning import plan_disks
from mover.operations.progress import Progress
from mover.operations.report import point_report
from mover.operations.request import BackupRequest
from mover.operations.select import check_has_disk, check_may_back_up, exclusions, idle_exclusions
from mover.operations.values import dump, load
from mover.operations.writing import Writing, writing

_LOG = logs.get(__name__)


async def backup_vm(node: Node, values: Mapping[str, Any], steps: Steps) -> Values:
    """Back up one VM; gives its report. All disks or no point; nothing of ours stays but the base.

    Raises what the parts raise; before it does, what was made on the cluster is cleaned up,
    and what could not be is named in the error's ``owed``.
    """
    request = BackupRequest.read(values)
    with logs.bind(vm=request.vm_name):
        turn = node.board.pulse.holding(steps.job_id, node.lanes.lease(f"backup of {request.vm_uuid}"), is_work=False)
        async with turn, _cleaned(node, request, steps.job_id):
            backup = Backup(node, request, steps)
            async with writing(node.repository, (request.vm_uuid, request.point_id)) as session:
                return await backup.run(session)


@asynccontextmanager
async def _cleaned(node: Node, request: BackupRequest, job: str) -> AsyncIterator[None]:
    """Settle with the cluster at the end, good or bad. A stop (cancelled task) settles nothing: it goes on later."""
    try:
        yield
    except MoverError as error:
        if not isinstance(error, JobCancelled):
            await node.board.standing.failed(request.vm_uuid, request.vm_name)
        owed = await settle(node, job, vm_uuid=request.vm_uuid)
        error.facts["owed"] = [action.reason for action in owed]
        raise
    except Exception:
        await node.board.standing.failed(request.vm_uuid, request.vm_name)
        await settle(node, job, vm_uuid=request.vm_uuid)
        raise
    await settle(node, job, vm_uuid=request.vm_uuid)


class Backup:
    """The steps of one job, in the order of ``run``."""

    def __init__(self, node: Node, request: BackupRequest, steps: Steps) -> None:
        self._node = node
        self._request = request
        self._steps = steps

    async def run(self, session: Writing) -> Values:
        """The report of the point, committed."""
        steps = self._steps
        seen = await steps.step("look", self._look)
        if "committed" in seen:
            return dict(seen["committed"])
        session.resume(await steps.step("open", session.open))
        frozen = await steps.step("freeze", self._freeze, seen)
        plans = await steps.step("decide", self._decide, session, frozen, seen["excluded"])
        work = CopyJob(
            self._node,
            steps.job_id,
            self._request.vm_name,
            load(Frozen, frozen).vm.cluster_uuid,
            session.get,
            steps.cancellation,
        )
        calls = [Call(f"disk {plan['disk']['device_uuid']}", copy_one, (work, plan)) for plan in plans["disks"]]
        copied = await steps.together(calls)
        # A job that an older version began has no warnings from its look.
        plans = {**plans, "warnings": [*seen.get("warnings", ()), *plans["warnings"]]}
        return await steps.step("commit", self._commit, session, frozen, plans, copied, seen["excluded"])

    async def _look(self) -> Values:
        """Was it committed by an earlier attempt; or may it be backed up, is there room, what is left out?"""
        node, request = self._node, self._request
        self._tell("look")
        points = await node.repository.points(request.vm_uuid)
        if any(point.id == request.point_id for point in points):
            point = await node.repository.load(request.point_id)
            await node.board.standing.committed(point)
            return {"committed": point_report(point)}
        vm = await node.hypervisor.vm(request.vm_uuid)
        check_may_back_up(vm, node.proxy_uuid)
        check_has_disk(vm)
        await check_proxy(node, vm.cluster_uuid, what=vm.name)
        excluded = exclusions(vm.data_disks(), request.exclude)
        await check_space(node, {disk.container_uuid for disk in vm.data_disks()})
        return {"vm": dump(vm), "excluded": excluded, "warnings": idle_exclusions(vm, request.exclude)}

    async def _freeze(self, seen: Values) -> Values:
        self._tell("freeze")
        frozen = await freeze(
            self._node,
            self._request,
            job=self._steps.job_id,
            seen=load(Vm, seen["vm"]),
            excluded=seen["excluded"],
        )
        return dump(frozen)

    async def _decide(self, session: Writing, values: Values, excluded: Mapping[str, str]) -> Values:
        """Full or incremental, disk by disk; the base is read again inside the session."""
        node, request = self._node, self._request
        points = [p for p in await node.repository.points(request.vm_uuid) if p.id != request.point_id]
        base, warning = await self._base(points)
        frozen = load(Frozen, values)
        plans = await plan_disks(
            node, request, frozen, excluded=excluded, points=points, base=base, session=await session.get()
        )
        return {"disks": [dump(plan) for plan in plans], "warnings": [warning] if warning else []}

    async def _base(self, points: list[Any]) -> tuple[Base | None, str | None]:
        summary = newest_base(points)
        if summary is None:
            return None, None
        try:
            point = await self._node.repository.load(summary)
        except Damaged as error:
            return None, f"The base point {summary.id[:8]} is damaged, so all is read: {error.message}"
        snapshot = await self._node.hypervisor.find_snapshot(point.snapshot_uuid or "")
        if snapshot is not None and snapshot.state is not SnapshotState.COMPLETE:
            snapshot = None
        return Base(point, snapshot), None

    async def _commit(
        self, session: Writing, values: Values, plans: Values, copied: list[Values], excluded: Mapping[str, str]
    ) -> Values:
        """All is durable, then the manifest; repeated after a crash it finds its own.

        Gives the report: once it stands, nothing that the store answers makes it a failure.
        """
        node = self._node
        self._tell("commit")
        frozen = load(Frozen, values)
        open_session = await session.get()
        images = [_image(item, frozen_at=frozen.frozen_at) for item in copied]
        images += [_excluded_image(disk, excluded) for disk in frozen.vm.data_disks() if disk.device_uuid in excluded]
        point = self._point(frozen, images, plans["warnings"], session_id=open_session.id)
        # Should the store's answer be lost, the manifest may come to be later, and need its base.
        await self._note_commit(frozen.snapshot.uuid, committing_at=node.clock.now())
        await open_session.commit(point)
        if not node.repository.store.traits.list_lag_s:
            # Where lists lag the point is not seen yet by who decides on its snapshot: the note stays for that.
            await self._note_commit(frozen.snapshot.uuid, committing_at=0.0)
        await self._trust(frozen.vm.cluster_uuid, copied)
        await node.board.standing.committed(point)
        _LOG.info("committed", point=point.id, snapshot=frozen.snapshot.uuid, now=node.clock.now())
        return point_report(point)

    async def _trust(self, cluster_uuid: str, copied: list[Values]) -> None:
        """A cluster whose unlisted space was all zero is believed from now on, unless another disk showed it lying."""
        if any(item["confirms_unlisted"] for item in copied) and not any(item["mismatch"] for item in copied):
            await self._node.ledger.trust_unlisted(cluster_uuid)

    async def _note_commit(self, snapshot_uuid: str, *, committing_at: float) -> None:
        for entry in await self._node.ledger.open_entries(self._steps.job_id, Kind.SNAPSHOT):
            if entry.identity == snapshot_uuid:
                await self._node.ledger.note(entry, committing_at=committing_at)

    def _point(self, frozen: Frozen, images: list[DiskImage], warnings: list[str], *, session_id: str) -> RestorePoint:
        request, vm, snapshot = self._request, frozen.vm, frozen.snapshot
        return RestorePoint(
            id=request.point_id,
            vm_uuid=vm.uuid,
            vm_name=vm.name,
            cluster_uuid=vm.cluster_uuid,
            created_at=frozen.frozen_at,
            committed_at=self._node.clock.now(),
            consistency_asked=request.consistency,
            consistency=snapshot.consistency,
            disks=tuple(sorted(images, key=lambda image: image.slot)),
            session_id=session_id,
            job_id=self._steps.job_id,
            snapshot_uuid=snapshot.uuid,
            snapshot_expires_at=snapshot.expires_at,
            is_base=request.keep_base,
            others=_others(vm),
            warnings=(*warnings_of(vm), *frozen.warnings, *warnings),
            vm_spec=vm.spec,
            vm_reading=_reading(vm),
            software_version=mover.__version__,
        )

    def _tell(self, phase: str) -> None:
        self._node.progress(Progress(self._steps.job_id, self._request.vm_name, None, phase))


def _image(values: Values, *, frozen_at: float) -> DiskImage:
    plan = load(DiskPlan, values["plan"])
    mode = ReadMode(values["mode"])
    return DiskImage(
        device_uuid=plan.disk.device_uuid,
        slot=plan.disk.slot,
        size_bytes=plan.disk.size_bytes,
        mode=mode,
        reason=values["reason"],
        vmdisk_uuid=plan.disk.vmdisk_uuid,
        container_uuid=plan.disk.container_uuid,
        block_bytes=values["block_bytes"],
        fan_out=values["fan_out"],
        node_ids=node_ids_of(values),
        snapshot_path=plan.path,
        base=plan.base() if mode is ReadMode.INCREMENTAL else None,
        bytes_read=values["bytes_read"],
        bytes_changed=values["bytes_changed"],
        bytes_new=values["bytes_new"],
        bytes_stored=values["bytes_stored"],
        seconds=values["seconds"],
        slice_place=load(SlicePlace, values["slice"]) if values.get("slice") else None,
        touched=load(Touched, values["touched"]) if values.get("touched") else None,
        full_at=frozen_at if mode is ReadMode.FULL else plan.full_at,
    )


def _excluded_image(disk: Disk, excluded: Mapping[str, str]) -> DiskImage:
    return DiskImage(
        device_uuid=disk.device_uuid,
        slot=disk.slot,
        size_bytes=disk.size_bytes,
        mode=ReadMode.EXCLUDED,
        reason=f"excluded by {excluded[disk.device_uuid]}",
        vmdisk_uuid=disk.vmdisk_uuid,
        container_uuid=disk.container_uuid,
    )


def _others(vm: Vm) -> tuple[OtherDevice, ...]:
    data = set(vm.data_disks())
    return tuple(
        OtherDevice(disk.slot, disk.kind, disk.volume_group_uuid or "") for disk in vm.disks if disk not in data
    )


def _reading(vm: Vm) -> Values:
    """What we understood of the VM, vendor-free: all but its disks and the spec itself."""
    reading = dump(vm)
    for known_elsewhere in ("spec", "disks", "uuid", "cluster_uuid"):
        del reading[known_elsewhere]
    return reading
