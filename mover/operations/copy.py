"""One disk of a backup: ask, attach, prove, copy, release, detach. One durable step.

Run again after a crash it begins anew: an attachment is never used over a crash, what is
already in the repository is found there as known.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from mover import logs
from mover.catalog.ledger import Kind
from mover.device.protocol import ReadableDevice
from mover.errors import BaseGone, ChangedRegionsInvalid
from mover.jobs.steps import Cancellation, Values
from mover.metrics import AUDIT_MISMATCHES
from mover.model.machine import CloneSource, Disk
from mover.model.point import BasePair, DiskImage, ReadMode, SlicePlace, Touched
from mover.model.region import RegionKind, Regions
from mover.operations.attach import Wish, unplug
from mover.operations.blocksize import (
    BlockChoice,
    after_full,
    after_incremental,
    forgotten,
    touched_by,
)
from mover.operations.clean import drop_entry
from mover.operations.decide import Decision
from mover.operations.node import Node
from mover.operations.opened import plugged_device
from mover.operations.places import place_for_disk
from mover.operations.ports import WriteSession
from mover.operations.progress import DiskWatch
from mover.operations.timer import Timer
from mover.operations.values import dump, load
from mover.pipeline.disk_to_repository import DiskCopy, DiskResult, copy_disk
from mover.pipeline.flow import Meter
from mover.pipeline.plan import Audit
from mover.pipeline.rolling import Slice
from mover.repository.layout import FAN_OUT

_LOG = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What is to be done with one disk; kept between steps as plain values."""

    ordinal: int
    disk: Disk
    path: str
    """Its frozen file."""
    mode: ReadMode
    reason: str
    base_point: str | None = None
    base_path: str | None = None
    base_snapshot: str | None = None
    rolling: Slice | None = None
    """What is compared beside the samples."""
    decided_at: float = 0.0
    block_bytes: int = 0
    """0: a plan that an older version made, which goes by the setting."""
    touched: Touched | None = None
    """What the size of blocks goes by, as it was before this run."""
    full_at: float | None = None
    """When the disk was last read in full before this run, where that is known."""

    @classmethod
    def of(
        cls,
        ordinal: int,
        disk: Disk,
        path: str,
        decision: Decision,
        blocks: BlockChoice,
        *,
        former: DiskImage | None = None,
        rolling: Slice | None = None,
        full_at: float | None = None,
        now: float = 0.0,
    ) -> DiskPlan:
        """former: the disk in the newest point."""
        pair, touched = decision.base, former.touched if former else None
        reason = decision.reason + (f", {blocks.reason}" if blocks.reason not in decision.reason else "")
        return cls(
            ordinal,
            disk,
            path,
            decision.mode,
            reason + (rolling.note() if rolling else ""),
            base_point=pair.point_id if pair else None,
            base_path=pair.file_path if pair else None,
            base_snapshot=pair.snapshot_uuid if pair else None,
            rolling=rolling,
            decided_at=now,
            block_bytes=blocks.block_bytes,
            touched=forgotten(touched) if blocks.reason else touched,
            full_at=full_at,
        )

    def base(self) -> BasePair | None:
        """The pair that this disk is incremental against."""
        if self.base_point is None or self.base_path is None or self.base_snapshot is None:
            return None
        return BasePair(self.base_snapshot, self.base_path, self.base_point)

    def place_after(self, *, all_compared: bool) -> SlicePlace | None:
        """Where the rolling slice goes on. all_compared: this run read the whole disk."""
        if self.rolling is None:
            return None
        done = self.rolling.done()
        return replace(done, paid_until=self.decided_at) if all_compared else done

    def in_full(self, reason: str) -> DiskPlan:
        return replace(self, mode=ReadMode.FULL, reason=reason, base_point=None, base_path=None, base_snapshot=None)


@dataclass(frozen=True, slots=True)
class CopyJob:
    """What the disks of one VM have in common."""

    node: Node
    job: str
    vm_name: str
    cluster_uuid: str
    session: Callable[[], Awaitable[WriteSession]]
    cancellation: Cancellation


class _Done(NamedTuple):
    """What came of a copy."""

    result: DiskResult
    touched: Touched | None
    block_bytes: int
    is_first: bool
    """All unlisted space, since the cluster is not trusted yet."""
    is_full: bool


async def copy_one(work: CopyJob, values: Values) -> Values:
    """The step. values: a DiskPlan; gives what the manifest needs of the disk."""
    plan = load(DiskPlan, values)
    node, disk = work.node, plan.disk
    with logs.bind(disk=str(disk.slot)):
        for entry in await node.ledger.open_entries(work.job, Kind.ATTACHMENT):
            if entry.ordinal == plan.ordinal:
                await drop_entry(node, entry)
        place = place_for_disk(node, job=work.job, ordinal=plan.ordinal, container_uuid=disk.container_uuid)
        async with node.board.pulse.holding(work.job, place):
            watch = DiskWatch(
                node.progress, node.clock, job=work.job, vm=work.vm_name, disk=str(disk.slot), series=node.board.series
            )
            try:
                return await _copy(work, plan, watch)
            finally:
                watch.close()


async def _copy(work: CopyJob, plan: DiskPlan, watch: DiskWatch) -> Values:
    node, timer = work.node, Timer()
    watch.phase("ask", plan.reason)
    plan, regions = await timer.during("ask", ask(node, plan))
    watch.phase("attach", plan.reason)
    source = CloneSource(path=plan.path, container_uuid=plan.disk.container_uuid)
    wish = Wish(work.job, Kind.ATTACHMENT, plan.ordinal, node.proxy_uuid, source)
    async with plugged_device(node, wish, writable=False, cancellation=work.cancellation, timer=timer) as plugged:
        done = await work.cancellation.unless(_read(work, plan, regions, plugged.device, watch))
    result = done.result
    watch.phase("detach", result.reason)
    await timer.during("detach", unplug(node, plugged.entry))
    watch.phase("done", result.reason)
    confirms = done.is_first and not result.mismatch and bool(result.audited.get("unlisted"))
    place = plan.place_after(all_compared=done.is_full or result.mismatch)
    return {
        **_values(plan, result, {**timer.seconds, **result.seconds}, done.block_bytes),
        "mismatch": result.mismatch,
        "slice": None if place is None else dump(place),
        "touched": None if done.touched is None else dump(done.touched),
        "confirms_unlisted": confirms,
    }


async def ask(node: Node, plan: DiskPlan) -> tuple[DiskPlan, Regions]:
    """What is to be read of a disk; the plan changes to full where the base turns out useless."""
    size = plan.disk.size_bytes
    if plan.base_path is not None:
        try:
            return plan, await _regions(node, plan, plan.base_path)
        except BaseGone:
            plan = plan.in_full("the base snapshot is gone")
        except ChangedRegionsInvalid as error:
            plan = plan.in_full(f"the list of changes is invalid: {error.message}")
    try:
        return plan, await _regions(node, plan, None)
    except ChangedRegionsInvalid as error:
        return plan.in_full(f"the list of allocated regions is invalid: {error.message}"), Regions.whole(size)


async def _regions(node: Node, plan: DiskPlan, base_path: str | None) -> Regions:
    size = plan.disk.size_bytes
    answer = await node.hypervisor.changed_regions(plan.path, base_path, size_bytes=size)
    if answer.file_size_bytes != size:
        raise ChangedRegionsInvalid(
            f"it speaks of {answer.file_size_bytes} bytes, the disk has {size}",
            remedy="The disk is read in full; report this if it comes back.",
        )
    return answer.regions


async def _read(work: CopyJob, plan: DiskPlan, regions: Regions, device: ReadableDevice, watch: DiskWatch) -> _Done:
    node, data = work.node, work.node.settings.data
    session = await work.session()
    is_full = plan.mode is ReadMode.FULL
    # Until this cluster has shown that what it does not list is zero, nothing is taken on trust.
    has_unlisted = len(regions.gaps(plan.disk.size_bytes)) > 0
    is_first = is_full and has_unlisted and not await node.ledger.trusts_unlisted(work.cluster_uuid)
    base = await _base_image(node, plan)
    audit = Audit(
        data.audit_blocks,
        node.clock.random(),
        is_full=data.audit_full or is_first,
        rolling=plan.rolling.spans() if plan.rolling else (),
    )
    copy = DiskCopy(
        size_bytes=plan.disk.size_bytes,
        block_bytes=plan.block_bytes or data.first_block_bytes,
        regions=regions,
        mode=plan.mode,
        unlisted="zero" if is_full else "unchanged",
        audit=audit,
        base_map=await session.open_map(base) if base else None,
        base_size_bytes=base.size_bytes if base else None,
        reason=plan.reason,
    )
    meter = Meter()
    copying = copy_disk(copy, workers=node.workers, session=session, device=device, meter=meter)
    result = await watch.during("copy", meter, copying)
    # The step's result names blocks: what it names must be there after a crash.
    await session.flush()
    if result.mismatch:
        _LOG.error("the cluster's list of changes was wrong", reason=result.reason)
        AUDIT_MISMATCHES.labels(work.vm_name).inc()
        await node.ledger.distrust_unlisted(work.cluster_uuid)
    touched = await node.workers.blocking(partial(_touched, node, plan, copy, result))
    return _Done(result, touched, copy.block_bytes, is_first, audit.is_full)


def _touched(node: Node, plan: DiskPlan, copy: DiskCopy, result: DiskResult) -> Touched | None:
    """What is remembered of how the disk changes; a list that lied says nothing."""
    if result.mismatch:
        return plan.touched
    if copy.base_size_bytes is None:
        return after_full(plan.touched, copy.regions)
    sizes = touched_by(
        copy.regions, size_bytes=copy.size_bytes, base_size_bytes=copy.base_size_bytes, dice=node.clock.random()
    )
    data_bytes = copy.regions.bytes_of(RegionKind.DATA)
    return after_incremental(plan.touched, plan.decided_at, sizes, size_bytes=copy.size_bytes, data_bytes=data_bytes)


async def _base_image(node: Node, plan: DiskPlan) -> DiskImage | None:
    if plan.base_point is None:
        return None
    point = await node.repository.load(plan.base_point)
    return next(image for image in point.disks if image.device_uuid == plan.disk.device_uuid)


def _values(plan: DiskPlan, result: DiskResult, seconds: dict[str, float], block_bytes: int) -> Values:
    return {
        "plan": dump(plan),
        "mode": str(result.mode),
        "reason": result.reason,
        "block_bytes": block_bytes,
        "fan_out": FAN_OUT,
        "node_ids": base64.b64encode(result.node_ids).decode(),
        "bytes_read": result.bytes_read,
        "bytes_changed": result.bytes_changed,
        "bytes_new": result.bytes_new,
        "bytes_stored": result.bytes_stored,
        "seconds": {phase: round(value, 4) for phase, value in seconds.items()},
    }


def node_ids_of(values: dict[str, Any]) -> bytes:
    """The map's node ids, out of the step's values."""
    return base64.b64decode(values["node_ids"])
