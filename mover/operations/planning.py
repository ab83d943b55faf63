"""How each disk of a backup is read: what the repository and the cluster still have, put before ``decide``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mover.errors import Damaged, NoSuchPoint
from mover.model.machine import Disk
from mover.model.point import PointSummary, ReadMode, RestorePoint, SlicePlace
from mover.operations.copy import DiskPlan
from mover.operations.decide import Base, Wishes, decide, newest_full
from mover.operations.freeze import Frozen
from mover.operations.node import Node
from mover.operations.ports import Repository, WriteSession
from mover.operations.request import BackupRequest
from mover.pipeline.rolling import next_slice


async def plan_disks(
    node: Node,
    request: BackupRequest,
    frozen: Frozen,
    *,
    excluded: Mapping[str, str],
    points: Sequence[PointSummary],
    base: Base | None,
    session: WriteSession,
) -> list[DiskPlan]:
    """A plan per disk that is not excluded. points: the VM's others, newest last; base: what the newest one left."""
    data = node.settings.data
    wishes = Wishes(
        full=request.full,
        block_bytes=data.block_size,
        cluster_uuid=frozen.vm.cluster_uuid,
        full_every_s=request.full_every_s,
        last_full_at=newest_full(points),
        now=node.clock.now(),
        unsound=await _unsound(session, base),
    )
    paths = {file.vmdisk_uuid: file.path for file in frozen.snapshot.files}
    places = await _slice_places(node.repository, points, base)
    chosen = [disk for disk in frozen.vm.data_disks() if disk.device_uuid not in excluded]

    def plan(ordinal: int, disk: Disk) -> DiskPlan:
        rolling = next_slice(
            places.get(disk.device_uuid),
            now=wishes.now,
            size_bytes=disk.size_bytes,
            block_bytes=data.block_size,
            within_s=data.compare_within,
        )
        path = paths[disk.vmdisk_uuid or ""]
        return DiskPlan.of(ordinal, disk, path, decide(disk, base, wishes), rolling=rolling, now=wishes.now)

    return [plan(ordinal, disk) for ordinal, disk in enumerate(chosen)]


async def _unsound(session: WriteSession, base: Base | None) -> frozenset[str]:
    """Device UUIDs of disks whose former image needs damaged packs: what inherits from it would need them too."""
    disks = base.point.disks if base is not None else ()
    kept = [disk for disk in disks if disk.mode is not ReadMode.EXCLUDED]
    return frozenset([disk.device_uuid for disk in kept if await session.leans_on_suspects(disk)])


async def _slice_places(
    repository: Repository, points: Sequence[PointSummary], base: Base | None
) -> dict[str, SlicePlace | None]:
    """Device UUID → how far the rolling slice has come: the newest point says it, whether it is a base or not."""
    newest = next((point.id for point in reversed(points) if not point.problem), None)
    if newest is None:
        return {}
    point = base.point if base is not None and base.point.id == newest else await _advice(repository, newest)
    return {image.device_uuid: image.slice_place for image in point.disks} if point else {}


async def _advice(repository: Repository, point_id: str) -> RestorePoint | None:
    """A point that can be done without."""
    try:
        return await repository.load(point_id)
    except (Damaged, NoSuchPoint):
        return None
