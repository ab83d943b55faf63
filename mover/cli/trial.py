"""One disk backed up and restored through the pipeline, as the daemon does it, with what it cost.

Repository, workers and device are those of the settings; Prism has no part in it.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mover import __version__
from mover.clock import Clock, stopwatch
from mover.device.protocol import ReadableDevice
from mover.model.machine import Consistency, Slot
from mover.model.point import DiskImage, ReadMode, RestorePoint
from mover.model.region import Regions
from mover.operations.node import ReadingNode
from mover.operations.progress import DiskWatch
from mover.operations.tofile import restore_to_file
from mover.operations.writing import writing
from mover.pipeline.disk_to_repository import DiskCopy, DiskResult, copy_disk
from mover.pipeline.flow import Meter
from mover.pipeline.plan import Audit
from mover.repository.layout import FAN_OUT

VM_NAME = "sample"
_SLOT = Slot("scsi", 0)
_LOOK_S = 0.05


@dataclass(slots=True)
class Load:
    """What a run cost this process. Memory: anonymous and shared, the highest seen."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


class Trial:
    """A disk of a VM that is nowhere, and one node that backs it up."""

    def __init__(self, node: ReadingNode) -> None:
        self._node = node
        self._vm_uuid = node.clock.new_uuid()

    async def back_up(
        self, device: ReadableDevice, regions: Regions, base: RestorePoint | None = None
    ) -> tuple[RestorePoint, dict[str, Any]]:
        """From opening the session to the durable commit. base: the point whose changes the regions are."""
        node, point_id = self._node, self._node.clock.new_uuid()
        watch = DiskWatch(node.progress, node.clock, job=point_id, vm=VM_NAME, disk=str(_SLOT))
        async with writing(node.repository, (self._vm_uuid, point_id)) as holder:
            session = await holder.get()
            old = base.disks[0] if base else None
            data = node.settings.data
            copy = DiskCopy(
                size_bytes=device.size_bytes,
                block_bytes=data.first_block_bytes,
                regions=regions,
                mode=ReadMode.INCREMENTAL if old else ReadMode.FULL,
                unlisted="unchanged" if old else "zero",
                audit=Audit(data.audit_blocks, node.clock.random(), is_full=data.audit_full),
                base_map=await session.open_map(old) if old else None,
                base_size_bytes=old.size_bytes if old else None,
            )
            meter = Meter()
            work = copy_disk(copy, workers=node.workers, session=session, device=device, meter=meter)
            result = await watch.during("copy", meter, work)
            point = self._point(point_id, session.id, device.size_bytes, result)
            await session.commit(point)
        watch.close()
        figures = {key: getattr(result, key) for key in ("bytes_read", "bytes_new", "bytes_stored")}
        return point, {**figures, "bytes_moved": result.bytes_read, "phases": result.seconds}

    def _point(self, point_id: str, session_id: str, size_bytes: int, result: DiskResult) -> RestorePoint:
        now = self._node.clock.now()
        image = DiskImage(
            device_uuid=self._vm_uuid,
            slot=_SLOT,
            size_bytes=size_bytes,
            mode=result.mode,
            reason=result.reason,
            block_bytes=self._node.settings.data.first_block_bytes,
            fan_out=FAN_OUT,
            node_ids=result.node_ids,
            bytes_read=result.bytes_read,
        )
        return RestorePoint(
            id=point_id,
            vm_uuid=self._vm_uuid,
            vm_name=VM_NAME,
            cluster_uuid=self._vm_uuid,
            created_at=now,
            committed_at=now,
            consistency_asked=Consistency.CRASH,
            consistency=Consistency.CRASH,
            disks=(image,),
            session_id=session_id,
            job_id="bench",
            software_version=__version__,
        )

    async def restore(self, point: RestorePoint, path: Path) -> dict[str, Any]:
        """Into a new file."""
        report = await restore_to_file(self._node, point.id, None, path)
        disk = report["disks"][0]
        return {"bytes_read": disk["bytes_fetched"], "bytes_moved": disk["bytes_written"], "phases": disk["seconds"]}


@asynccontextmanager
async def measured(clock: Clock) -> AsyncIterator[Load]:
    """Seconds, CPU and the highest memory of the block."""
    load = Load()
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(_watch_memory(load, clock))
        used, began = _cpu_s(), stopwatch()
        yield load
        load.seconds, load.cpu_s = stopwatch() - began, _cpu_s() - used
        looking.cancel()


async def _watch_memory(load: Load, clock: Clock) -> None:
    while True:
        load.peak_bytes = max(load.peak_bytes, memory_bytes())
        await clock.sleep(_LOOK_S)


def memory_bytes() -> int:
    """Anonymous and shared memory of this process; the page cache behind mapped files is not counted."""
    with open("/proc/self/status", encoding="ascii") as lines:
        found = [line.split() for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(int(words[1]) * 1024 for words in found)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
