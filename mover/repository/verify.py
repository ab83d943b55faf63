"""What needs no pipeline: that every object is whole and everything that points need is there.

Blocks themselves are not read (a restore into nothing does that); every other byte is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mover.errors import Damaged, NoSuchPoint, ObjectMissing, StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.model.point import ID_BYTES, DiskImage, PointSummary, ReadMode, RestorePoint
from mover.repository import layout
from mover.repository.blockmap import NODES_LOADED, MapReader
from mover.repository.index import BlockPlaces, PlaceState
from mover.repository.pack import Contents
from mover.repository.reader import ReadSession
from mover.repository.together import first_of, side_by_side
from mover.storage.protocol import ObjectInfo, Store

READS_IN_FLIGHT = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be."""

    object: str
    """The object that is damaged or missing."""
    what: str
    point: str = ""
    """The restore point that needs it, if that is how it was found."""


@dataclass(slots=True)
class CheckReport:
    """The outcome of a check; clean when there are no problems."""

    packs: int = 0
    points: int = 0
    blocks: int = 0
    """References from maps to stored blocks."""
    unlisted_packs: list[str] = field(default_factory=list)
    """Packs in no index object: harmless, a collector takes them."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.problems


class Checked(Protocol):
    """What a check needs of a repository."""

    @property
    def store(self) -> Store: ...

    @property
    def problems(self) -> Mapping[str, Damaged]: ...

    async def damaged_index(self) -> Mapping[str, Damaged]: ...

    def listed_packs(self) -> set[bytes]: ...

    async def pack_contents(self, pack_id: bytes, pack_bytes: int) -> Contents: ...

    async def points(self, vm_uuid: str | None = None) -> list[PointSummary]: ...

    async def load(self, point: PointSummary | str) -> RestorePoint: ...

    async def open_reader(self) -> ReadSession: ...


async def check(repository: Checked, point: RestorePoint | None = None) -> CheckReport:
    """Read every object but the blocks, or only index objects and what one point needs.

    Never raises for damage; StorageError when the store fails.
    """
    reader = await repository.open_reader()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(reader.run())
            report = await _Check(repository, reader).run(point)
            reader.stop()
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
    finally:
        await reader.end()
    return report


class _Check:
    def __init__(self, repository: Checked, reader: ReadSession) -> None:
        self._repository, self._reader = repository, reader
        self._report = CheckReport()
        self._sizes: dict[str, int | None] = {}
        """Of the packs that were looked at; None: it is missing."""
        self._marked: dict[str, str] = {}
        """Damaged packs that are marked as such: what is wrong with them matters to those that need them."""
        self._used: set[str] = set()
        """Names of the packs that points need."""

    async def run(self, only: RestorePoint | None) -> CheckReport:
        # What the refresh says of index objects may be wrong: of one that a whole one replaces, once a list hid it.
        packs = {name: error for name, error in self._repository.problems.items() if layout.pack_id_of(name)}
        damaged = {**packs, **await self._repository.damaged_index()}
        for name, error in sorted(damaged.items()):
            self._note(name, error.message)
        if only is not None:
            await self._disks(only)
        else:
            await self._all()
        if not damaged:
            for name in sorted(self._used - {layout.pack_name(one) for one in self._repository.listed_packs()}):
                self._note(name, f"no index object lists {name}")
        return self._report

    async def _all(self) -> None:
        await self._packs()
        for line in await self._repository.points():
            if line.problem:
                self._report.points += 1
                self._note(layout.point_name(line.vm_uuid, line.id), line.problem)
            else:
                await self._point(line)

    def _note_damage(self, error: Damaged | StorageError, name: str, point: str = "") -> None:
        """Raises what tells of the store as a whole, not of an object."""
        if isinstance(error, StoreUnreachable | StoreDenied | StoreFull):
            raise error
        self._note(str(error.facts.get("object", name)), error.message, point)

    def _note(self, name: str, what: str, point: str = "") -> None:
        problem = Problem(name, what, point)
        if problem not in self._report.problems:
            self._report.problems.append(problem)

    async def _packs(self) -> None:
        """Header, table and footer of every pack."""
        listed = self._repository.listed_packs()
        infos = []
        async for info in self._repository.store.list(layout.PACKS):
            pack_id = layout.pack_id_of(info.name)
            if pack_id is None:
                continue
            infos.append(info)
            if pack_id not in listed:
                self._report.unlisted_packs.append(info.name)
        await side_by_side(self._pack, infos, at_once=READS_IN_FLIGHT)

    async def _pack(self, info: ObjectInfo) -> None:
        pack_id = layout.pack_id_of(info.name)
        assert pack_id is not None
        self._sizes[info.name] = info.size_bytes
        self._report.packs += 1
        try:
            await self._repository.pack_contents(pack_id, info.size_bytes)
        except ObjectMissing:
            self._sizes[info.name] = None
        except (Damaged, StorageError) as error:
            if pack_id in self._reader.view.suspects and isinstance(error, Damaged):
                self._marked[info.name] = error.message
            else:
                self._note_damage(error, info.name)

    async def _look_for(self, name: str) -> None:
        """A pack that no listing told of."""
        info = await self._repository.store.info(name)
        if info is None:
            self._sizes[name] = None
        else:
            await self._pack(info)

    async def _point(self, summary: PointSummary) -> None:
        try:
            point = await self._repository.load(summary)
        except NoSuchPoint:
            return
        except Damaged as error:
            self._note(layout.point_name(summary.vm_uuid, summary.id), error.message)
            return
        await self._disks(point)

    async def _disks(self, point: RestorePoint) -> None:
        self._report.points += 1
        for disk in point.disks:
            if disk.mode is not ReadMode.EXCLUDED:
                await self._image(layout.point_name(point.vm_uuid, point.id), disk)

    async def _image(self, point: str, disk: DiskImage) -> None:
        """Every node opens, and every block has a place inside a pack that is there."""
        block_map = await self._reader.open_map(disk)
        for first in range(0, block_map.shape.nodes, NODES_LOADED):
            numbers = range(first, min(first + NODES_LOADED, block_map.shape.nodes))
            try:
                contents = await block_map.nodes(numbers)
            except (Damaged, StorageError):
                contents = [await self._node(block_map, number, point) for number in numbers]
            for number, content in zip(numbers, contents, strict=True):
                await self._blocks(point, disk, number * disk.fan_out, content)

    async def _node(self, block_map: MapReader, number: int, point: str) -> bytes:
        """One by one, so that each damaged one is named; nothing for such a one."""
        try:
            return (await block_map.nodes([number]))[0]
        except (Damaged, StorageError) as error:
            self._note_damage(error, "a pack", point)
            return b""

    async def _blocks(self, point: str, disk: DiskImage, first_block: int, content: bytes) -> None:
        places = self._reader.locate(content)
        self._report.blocks += int((places.state == PlaceState.STORED).sum())
        lost = np.flatnonzero((places.state == PlaceState.MISSING) | (places.state == PlaceState.LOST))
        if len(lost):
            at = int(lost[0])
            block_id = content[at * ID_BYTES : (at + 1) * ID_BYTES].hex()
            what = f"{len(lost)} blocks of disk {disk.slot} are in no pack, the first is block {first_block + at}"
            self._note(f"block {block_id}", what, point)
        await self._places(point, places)

    async def _places(self, point: str, places: BlockPlaces) -> None:
        ends = places.offset_bytes + places.stored_bytes
        used = np.unique(places.pack_no[places.state == PlaceState.STORED])
        packs = {int(pack_no): self._reader.pack_name(int(pack_no)) for pack_no in used}
        self._used.update(packs.values())
        unknown = [name for name in packs.values() if name not in self._sizes]
        await side_by_side(self._look_for, unknown, at_once=READS_IN_FLIGHT)
        for pack_no, name in packs.items():
            size = self._sizes[name]
            if size is None:
                self._note(name, f"{name} is missing", point)
            elif int(ends[places.pack_no == pack_no].max()) > size:
                self._note(name, f"{name} is shorter than the index says", point)
            elif name in self._marked:
                self._note(name, self._marked[name], point)
