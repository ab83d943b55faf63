"""One disk of a restore: temporary disk, prove, fill, clone into its slot, prove, detach. One durable step.

Detaching deletes, so the temporary disk goes only after the clone in the target VM is proven
by a GET, by size and source. Run again after a crash it begins with a fresh disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mover import logs
from mover.catalog.ledger import Kind, State
from mover.device.protocol import WritableDevice
from mover.errors import TaskFailed
from mover.jobs.steps import Cancellation, Values
from mover.model.machine import Attachment, CloneSource, EmptyDisk, Slot
from mover.model.point import DiskImage, ReadMode, RestorePoint
from mover.operations.attach import Wish, plug, unplug
from mover.operations.clean import drop_entry
from mover.operations.images import bring_back
from mover.operations.node import Node
from mover.operations.opened import plugged_device
from mover.operations.places import place_for_disk
from mover.operations.ports import ReadingSession
from mover.operations.progress import DiskWatch
from mover.operations.timer import Timer
from mover.operations.values import load
from mover.pipeline.repository_to_disk import RestoreResult

_LOG = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class FillPlan:
    """One disk to come back; kept between steps as plain values."""

    ordinal: int
    device_uuid: str
    """The image's, in the point."""
    size_bytes: int
    container_uuid: str
    vm_uuid: str
    """The VM that gets it."""
    slot: str | None
    """Its slot there; None: the lowest free one."""


@dataclass(frozen=True, slots=True)
class FillJob:
    """What the disks of one restore have in common."""

    node: Node
    job: str
    vm_name: str
    point: RestorePoint
    reader: Callable[[], Awaitable[ReadingSession]]
    cancellation: Cancellation


async def fill_one(work: FillJob, values: Values) -> Values:
    """The step. values: a FillPlan; gives the row for the report."""
    plan = load(FillPlan, values)
    node = work.node
    image = next(image for image in work.point.disks if image.device_uuid == plan.device_uuid)
    with logs.bind(disk=str(image.slot)):
        done = await _after_interruption(work, plan)
        if done is not None:
            return done
        if image.mode is ReadMode.EXCLUDED:
            return await _recreate_empty(work, plan, image)
        place = place_for_disk(node, job=work.job, ordinal=plan.ordinal, container_uuid=plan.container_uuid)
        async with node.board.pulse.holding(work.job, place):
            watch = DiskWatch(
                node.progress, node.clock, job=work.job, vm=work.vm_name, disk=str(image.slot), series=node.board.series
            )
            try:
                return await _fill(work, plan, image, watch)
            finally:
                watch.close()


async def _after_interruption(work: FillJob, plan: FillPlan) -> Values | None:
    """Let go of what an interrupted try made; the row, if its clone was proven already and is there.

    What an earlier attempt gave to a VM that was deleted since is gone with that VM.
    """
    mine = [entry for entry in await work.node.ledger.entries(work.job) if entry.ordinal == plan.ordinal]
    disks = [entry for entry in mine if entry.kind in (Kind.ATTACHMENT, Kind.TEMPORARY_DISK)]
    for entry in disks:
        if entry.is_open:
            await drop_entry(work.node, entry)
    given = {entry.identity: entry for entry in disks if entry.state is State.GIVEN}
    there = await work.node.hypervisor.disks(plan.vm_uuid) if given else ()
    return next((dict(given[disk.vmdisk_uuid].facts["row"]) for disk in there if disk.vmdisk_uuid in given), None)


async def _fill(work: FillJob, plan: FillPlan, image: DiskImage, watch: DiskWatch) -> Values:
    node, timer = work.node, Timer()
    watch.phase("attach")
    source = EmptyDisk(plan.size_bytes, plan.container_uuid)
    wish = Wish(work.job, Kind.TEMPORARY_DISK, plan.ordinal, node.proxy_uuid, source)
    async with plugged_device(node, wish, writable=True, cancellation=work.cancellation, timer=timer) as plugged:
        result = await work.cancellation.unless(_write(work, image, plugged.device, watch))
    watch.phase("clone")
    row = _row(plan, image, result, timer)
    row["slot"] = str(await timer.during("clone", _clone(work, plan, plugged.attachment, row)))
    await timer.during("detach", unplug(node, plugged.entry))
    watch.phase("done")
    return row


async def _write(work: FillJob, image: DiskImage, device: WritableDevice, watch: DiskWatch) -> RestoreResult:
    return await bring_back(work.node, image, reader=await work.reader(), target=device, watch=watch)


async def _clone(work: FillJob, plan: FillPlan, temporary: Attachment, row: Values) -> Slot:
    """Into the target VM, proven there; from then on it is the user's."""
    node = work.node
    source = CloneSource(vmdisk_uuid=temporary.vmdisk_uuid, container_uuid=plan.container_uuid)
    slot = Slot.parse(plan.slot) if plan.slot else None
    wish = Wish(work.job, Kind.ATTACHMENT, plan.ordinal, plan.vm_uuid, source, slot=slot, first=0)
    entry, clone = await plug(node, wish)
    await prove_clone(node, clone, temporary)
    await node.ledger.note(entry, row={**row, "slot": str(clone.slot)})
    await node.ledger.given(entry)
    return clone.slot


async def prove_clone(node: Node, clone: Attachment, temporary: Attachment) -> None:
    """Read the VM again: the disk stands there, as large as the temporary one, and made from it. Raises TaskFailed."""
    disks = await node.hypervisor.disks(clone.vm_uuid)
    disk = next((disk for disk in disks if disk.vmdisk_uuid == clone.vmdisk_uuid), None)
    if disk is None:
        problem = "it is not there"
    elif disk.size_bytes != temporary.size_bytes:
        problem = f"it has {disk.size_bytes} bytes instead of {temporary.size_bytes}"
    elif disk.source_vmdisk_uuid not in (None, temporary.vmdisk_uuid):
        problem = "it was made from another disk"
    else:
        return
    raise TaskFailed(
        f"The restored disk in {clone.slot} of VM {clone.vm_uuid} is not what was cloned: {problem}",
        remedy="Run the restore again; the temporary disk was kept until its clone is proven.",
        slot=str(clone.slot),
    )


async def _recreate_empty(work: FillJob, plan: FillPlan, image: DiskImage) -> Values:
    """An excluded disk comes back empty, so that the VM finds the same disks."""
    row: Values = {"disk": str(image.slot), "slot": str(image.slot), "size_bytes": image.size_bytes, "is_empty": True}
    source = EmptyDisk(plan.size_bytes, plan.container_uuid)
    wish = Wish(work.job, Kind.ATTACHMENT, plan.ordinal, plan.vm_uuid, source, slot=image.slot, is_own_vm=True)
    entry, _ = await plug(work.node, wish)
    await work.node.ledger.note(entry, row=row)
    await work.node.ledger.given(entry)
    return row


def _row(plan: FillPlan, image: DiskImage, result: RestoreResult, timer: Timer) -> Values:
    """For the report. seconds is shared with the timer, so that later phases show too."""
    timer.seconds.update(result.seconds)
    moving = result.seconds.get("copy", 0.0)
    return {
        "disk": str(image.slot),
        "size_bytes": plan.size_bytes,
        "bytes_written": result.bytes_written,
        "bytes_zero": result.bytes_zero,
        "bytes_fetched": result.bytes_fetched,
        "blocks_read_back": result.blocks_read_back,
        "rate": result.bytes_written / moving if moving else 0.0,
        "seconds": timer.seconds,
        "is_empty": False,
    }
