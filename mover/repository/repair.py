"""Repair: what is damaged is marked, so that it is stored again where it is met; nothing is deleted.

A damaged pack cannot be mended from itself. Once it is marked (``suspects``), the next
backups do not take its blocks for known, and every point that needs one of those is whole
again as soon as another pack holds it. Index objects are written anew from the packs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from mover.errors import Damaged, NoSuchPoint, ObjectMissing, StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.model.point import DiskImage, PointSummary, ReadMode, RestorePoint
from mover.repository import layout
from mover.repository.pack import Contents
from mover.repository.reader import ReadSession
from mover.repository.seal import damaged
from mover.repository.together import side_by_side
from mover.storage.protocol import Store

PACKS_AT_ONCE = 4
"""With up to 4 MiB of records in flight each, and their plain bytes."""
_NODES_ASKED = 8


@dataclass(frozen=True, slots=True)
class Leaning:
    """A restore point that needs marked packs: it comes back whole only if their blocks are stored again."""

    point_id: str
    vm_name: str
    disks: tuple[str, ...]


@dataclass(slots=True)
class Repaired:
    """What was found and done."""

    packs: int = 0
    """Looked at."""
    bytes_read: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    """Name of a pack → what is wrong with it."""
    marked: list[str] = field(default_factory=list)
    """Those of them that were not marked before."""
    index_objects: list[str] = field(default_factory=list)
    """Written anew."""
    unreadable_points: list[str] = field(default_factory=list)
    """Manifests that are damaged: nothing here mends them."""
    leaning: list[Leaning] = field(default_factory=list)


class Repairable(Protocol):
    """What a repair needs of a repository."""

    @property
    def store(self) -> Store: ...

    async def open_reader(self) -> ReadSession: ...

    async def rebuild_index(self) -> list[str]: ...

    async def pack_contents(self, pack_id: bytes, pack_bytes: int) -> Contents: ...

    async def check_records(self, contents: Contents, advance: Callable[[int], None]) -> None: ...

    async def mark_suspect(self, pack_id: bytes, why: str) -> bool: ...

    async def points(self, vm_uuid: str | None = None) -> list[PointSummary]: ...

    async def load(self, point: PointSummary | str) -> RestorePoint: ...


async def repair(
    repository: Repairable,
    point: RestorePoint | None,
    *,
    read_data: bool,
    plan: Callable[[int], None],
    advance: Callable[[int], None],
) -> Repaired:
    """See ``Repository.repair``."""
    report = Repaired(index_objects=await repository.rebuild_index())
    reader = await repository.open_reader()
    try:
        scan = _Scan(repository, report, read_data=read_data, advance=advance)
        listed = reader.view.packs()
        present = await _present(repository.store)
        wanted = listed.keys() | present.keys() if point is None else await _packs_of(reader, point)
        plan(sum(present.get(pack_id, 0) for pack_id in wanted) if read_data else 0)
        await side_by_side(partial(scan.look, listed, present), sorted(wanted), at_once=PACKS_AT_ONCE)
    finally:
        await reader.end()
    report.damaged, report.marked = dict(sorted(report.damaged.items())), sorted(report.marked)
    await _lean(repository, report, point)
    return report


async def _present(store: Store) -> dict[bytes, int]:
    """Id → bytes of every pack in the store."""
    found = [(layout.pack_id_of(info.name), info.size_bytes) async for info in store.list(layout.PACKS)]
    return {pack_id: size for pack_id, size in found if pack_id}


async def _packs_of(reader: ReadSession, point: RestorePoint) -> set[bytes]:
    """Ids of the packs that a point's nodes and blocks lie in, as far as its map can be read."""
    numbers: set[int] = set()
    for disk in point.disks:
        if disk.mode is ReadMode.EXCLUDED:
            continue
        block_map, step = await reader.open_map(disk), _NODES_ASKED * disk.fan_out
        numbers.update(_numbers(reader, disk.node_ids))
        for first in range(0, disk.block_count, step):
            try:
                ids = await block_map.ids(first, min(step, disk.block_count - first))
            except (Damaged, StorageError) as error:
                _raise_of_store(error)
            else:
                numbers.update(_numbers(reader, ids))
    return {reader.view.pack(number).pack_id for number in numbers}


def _numbers(reader: ReadSession, ids: bytes) -> set[int]:
    packs = np.sort(reader.locate(ids).pack_no)
    return {int(number) for number in packs[np.flatnonzero(np.diff(packs, prepend=-1))]}


def _raise_of_store(error: Damaged | StorageError) -> None:
    """Raise what tells of the store as a whole, not of an object."""
    if isinstance(error, StoreUnreachable | StoreDenied | StoreFull):
        raise error


class _Scan:
    def __init__(
        self, repository: Repairable, report: Repaired, *, read_data: bool, advance: Callable[[int], None]
    ) -> None:
        self._repository, self._report = repository, report
        self._read_data, self._tell = read_data, advance

    async def look(self, listed: Mapping[bytes, int], present: Mapping[bytes, int], pack_id: bytes) -> None:
        """One pack; marked if it is not whole."""
        name = layout.pack_name(pack_id)
        self._report.packs += 1
        try:
            await self._open(name, pack_id, listed.get(pack_id), present.get(pack_id))
        except (Damaged, StorageError) as error:
            _raise_of_store(error)
            self._report.damaged[name] = error.message
            if await self._repository.mark_suspect(pack_id, error.message):
                self._report.marked.append(name)

    async def _open(self, name: str, pack_id: bytes, listed: int | None, present: int | None) -> None:
        if present is None:
            # A listing may lag; the question for one name does not.
            info = await self._repository.store.info(name)
            if info is None:
                raise damaged(name, "it is missing")
            present = info.size_bytes
        if listed not in (None, present):
            raise damaged(name, f"it has {present} bytes, the index says {listed}")
        contents = await self._repository.pack_contents(pack_id, present)
        if self._read_data:
            await self._repository.check_records(contents, self._advance)

    def _advance(self, size_bytes: int) -> None:
        self._report.bytes_read += size_bytes
        self._tell(size_bytes)


async def _lean(repository: Repairable, report: Repaired, point: RestorePoint | None) -> None:
    """Which points need marked packs, by now or from before."""
    reader = await repository.open_reader()
    try:
        if point is not None:
            await _add_leaning(reader, report, point)
            return
        for line in await repository.points():
            if line.problem:
                report.unreadable_points.append(layout.point_name(line.vm_uuid, line.id))
                continue
            try:
                whole = await repository.load(line)
            except NoSuchPoint:
                continue
            except Damaged:
                report.unreadable_points.append(layout.point_name(line.vm_uuid, line.id))
                continue
            await _add_leaning(reader, report, whole)
    except ObjectMissing as error:
        raise damaged(str(error.facts.get("object", "an object")), "it vanished while it was read") from error
    finally:
        await reader.end()


async def _add_leaning(reader: ReadSession, report: Repaired, point: RestorePoint) -> None:
    disks: list[DiskImage] = [disk for disk in point.disks if disk.mode is not ReadMode.EXCLUDED]
    slots = [str(disk.slot) for disk in disks if await reader.leans_on_suspects(disk)]
    if slots:
        report.leaning.append(Leaning(point.id, point.vm_name, tuple(slots)))
