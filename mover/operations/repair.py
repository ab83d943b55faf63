"""Repair a repository: mark damaged packs, mend the index, say what follows. Deletes nothing.

Needs the repository and its key alone.
"""

from __future__ import annotations

from mover.jobs.steps import Values
from mover.operations.node import ReadingNode
from mover.operations.progress import DiskWatch
from mover.pipeline.flow import Meter

JOB = "repair"


async def repair_repository(node: ReadingNode, text: str | None, *, read_data: bool) -> Values:
    """What was looked at, found and done; of one point's packs, or of all. read_data: open every record.

    Raises NoSuchPoint, AmbiguousName, Damaged (the named point cannot be read), StorageError.
    """
    point = await node.repository.load(text) if text else None
    meter = Meter()
    watch = DiskWatch(node.progress, node.clock, job=JOB, vm=point.vm_name if point else "repository", disk="packs")

    def advance(size_bytes: int) -> None:
        meter.add("fetched", size_bytes=size_bytes)
        meter.advance(size_bytes)

    work = node.repository.repair(point, read_data=read_data, plan=meter.plan, advance=advance)
    try:
        found = await watch.during("repair", meter, work)
        watch.phase("done")
    finally:
        watch.close()
    return {
        "point": point.id if point else None,
        "read_data": read_data,
        "packs": found.packs,
        "bytes_read": found.bytes_read,
        "damaged": [{"object": name, "what": what} for name, what in found.damaged.items()],
        "marked": found.marked,
        "index_objects": found.index_objects,
        "unreadable_points": found.unreadable_points,
        "leaning": [{"point": one.point_id, "vm": one.vm_name, "disks": list(one.disks)} for one in found.leaning],
    }
