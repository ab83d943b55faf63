"""One disk into the repository: what is asked, what was done, and what follows from a lie.

The way of the blocks is in ``reading``.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from functools import partial

from mover.clock import stopwatch
from mover.device.protocol import ReadableDevice
from mover.errors import DeviceRefused
from mover.metrics import AUDIT_BLOCKS
from mover.model.point import ReadMode
from mover.model.region import RegionKind, Regions
from mover.pipeline.flow import Count, Meter, grown
from mover.pipeline.plan import Audit, Purpose, ReadPlan, Unlisted, make_plan
from mover.pipeline.ports import BlockWriter, MapBuilder, MapReader
from mover.pipeline.reading import Contradiction, Reading
from mover.pipeline.workers import Workers


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """What is to be copied, and what may be believed.

    base_map belongs to the point that the regions are relative to. With unlisted =
    "unchanged", blocks that no region touches keep the ids that they have there.
    """

    size_bytes: int
    block_bytes: int
    regions: Regions
    mode: ReadMode
    unlisted: Unlisted
    audit: Audit
    base_map: MapReader | None = None
    base_size_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DiskResult:
    """What was done. mismatch: the regions lied, so the whole disk was read; reason says where."""

    node_ids: bytes
    mode: ReadMode
    reason: str
    mismatch: bool
    bytes_read: int
    bytes_changed: int
    bytes_new: int
    bytes_stored: int
    seconds: dict[str, float] = field(default_factory=dict)
    audited: dict[str, int] = field(default_factory=dict)
    """Class (unchanged, zeroed, unlisted) → blocks that were compared."""


async def copy_disk(
    job: DiskCopy, *, workers: Workers, session: BlockWriter, device: ReadableDevice, meter: Meter
) -> DiskResult:
    """Copy one disk; return its map and figures.

    Raises DeviceFault with the exact range, DeviceRefused when the device has not the disk's
    size, and what the session raises. However it ends, no thread uses the device any more
    and every buffer is back.
    """
    _check(job, device)
    before, seconds = meter.read(), _Seconds()
    read = partial(Reading, workers=workers, session=session, device=device, meter=meter)
    plan = await workers.blocking(partial(_plan, job))
    seconds.lap("plan")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(workers.one_disk())
        builder, lie = stack.enter_context(closing(_new_map(job, session))), None
        try:
            await read(plan, job.base_map, builder).run()
        except Contradiction as found:
            lie = found
        seconds.lap("copy")
        if lie is not None:
            builder = stack.enter_context(closing(_new_map(job, session, nothing_believed=True)))
            await read(_whole(job), None, builder).run()
            seconds.lap("copy_again")
        node_ids = await workers.blocking(builder.finish)
    seconds.lap("map")
    return _result(job, node_ids, lie, seconds.phases, before, meter.read())


class _Seconds:
    """Wall seconds by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._last = stopwatch()

    def lap(self, phase: str) -> None:
        now = stopwatch()
        self.phases[phase] = now - self._last
        self._last = now


def _check(job: DiskCopy, device: ReadableDevice) -> None:
    if device.size_bytes != job.size_bytes:
        raise DeviceRefused(
            f"{device.name} has {device.size_bytes} bytes, its disk {job.size_bytes}",
            remedy="Look whether the disk was resized or another one attached; then run the backup again.",
            device_bytes=device.size_bytes,
            disk_bytes=job.size_bytes,
        )
    if job.unlisted == "unchanged" and (job.base_map is None or job.base_size_bytes is None):
        raise ValueError("unlisted blocks can be unchanged only relative to a base")


def _new_map(job: DiskCopy, session: BlockWriter, *, nothing_believed: bool = False) -> MapBuilder:
    inherit = job.unlisted == "unchanged" and not nothing_believed
    base = job.base_map if inherit else None
    return session.new_map(size_bytes=job.size_bytes, block_bytes=job.block_bytes, base=base, inherit=inherit)


def _plan(job: DiskCopy) -> ReadPlan:
    return make_plan(
        job.regions,
        size_bytes=job.size_bytes,
        block_bytes=job.block_bytes,
        unlisted=job.unlisted,
        audit=job.audit,
        base_size_bytes=job.base_size_bytes,
    )


def _whole(job: DiskCopy) -> ReadPlan:
    """Every block, nothing believed."""
    return make_plan(
        Regions.whole(job.size_bytes),
        size_bytes=job.size_bytes,
        block_bytes=job.block_bytes,
        unlisted="read",
        audit=job.audit,
    )


def _result(
    job: DiskCopy,
    node_ids: bytes,
    lie: Contradiction | None,
    seconds: dict[str, float],
    before: dict[str, Count],
    after: dict[str, Count],
) -> DiskResult:
    done = partial(grown, before=before, after=after)
    audited = {p.audit_class: done(p.audit_class).items for p in Purpose if p is not Purpose.COPY}
    for name, blocks in audited.items():
        AUDIT_BLOCKS.labels(name).inc(blocks)
    return DiskResult(
        node_ids=node_ids,
        mode=job.mode if lie is None else ReadMode.FULL,
        reason=job.reason if lie is None else f"the changed regions were wrong: {lie}",
        mismatch=lie is not None,
        bytes_read=done("read").size_bytes,
        bytes_changed=job.regions.bytes_of(RegionKind.DATA) + job.regions.bytes_of(RegionKind.ZERO),
        bytes_new=done("new").size_bytes,
        bytes_stored=done("stored").size_bytes,
        seconds=seconds,
        audited=audited,
    )
