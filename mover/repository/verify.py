"""What needs no pipeline: that every object is whole and everything that points need is there.

Blocks themselves are not read (a restore into nothing does that); every other byte is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mover.errors import Damaged, MoverError, ObjectMissing
from mover.model.point import ID_BYTES, DiskImage, PointSummary, ReadMode
from mover.repository import layout
from mover.repository.blockmap import NODES_LOADED, MapReader
from mover.repository.index import BlockPlaces, PlaceState
from mover.repository.reader import ReadSession
from mover.repository.repository import Repository


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


async def check(repository: Repository) -> CheckReport:
    """Read every object but the blocks. Never raises for damage; StorageError when the store fails."""
    reader = await repository.open_reader()
    try:
        return await _Check(repository, reader).run()
    finally:
        await reader.end()


class _Check:
    def __init__(self, repository: Repository, reader: ReadSession) -> None:
        self._repository, self._reader = repository, reader
        self._report = CheckReport()
        self._sizes: dict[str, int] = {}

    async def run(self) -> CheckReport:
        for name, error in sorted(self._repository.problems.items()):
            self._note(name, error.message)
        await self._packs()
        for point in await self._repository.points():
            self._report.points += 1
            if point.problem:
                self._note(layout.point_name(point.vm_uuid, point.id), point.problem)
            else:
                await self._point(point)
        return self._report

    def _note(self, name: str, what: str, point: str = "") -> None:
        problem = Problem(name, what, point)
        if problem not in self._report.problems:
            self._report.problems.append(problem)

    async def _packs(self) -> None:
        """Header, table and footer of every pack."""
        listed = self._repository.listed_packs()
        async for info in self._repository.store.list(layout.PACKS):
            pack_id = layout.pack_id_of(info.name)
            if pack_id is None:
                continue
            self._sizes[info.name] = info.size_bytes
            self._report.packs += 1
            if pack_id not in listed:
                self._report.unlisted_packs.append(info.name)
            try:
                await self._repository.pack_contents(pack_id, info.size_bytes)
            except Damaged as error:
                self._note(info.name, error.message)
            except ObjectMissing:
                continue

    async def _point(self, summary: PointSummary) -> None:
        name = layout.point_name(summary.vm_uuid, summary.id)
        try:
            point = await self._repository.load(summary)
        except Damaged as error:
            self._note(name, error.message)
            return
        for disk in point.disks:
            if disk.mode is not ReadMode.EXCLUDED:
                await self._image(name, disk)

    async def _image(self, point: str, disk: DiskImage) -> None:
        """Every node opens, and every block has a place inside a pack that is there."""
        block_map = await self._reader.open_map(disk)
        for first in range(0, block_map.shape.nodes, NODES_LOADED):
            numbers = range(first, min(first + NODES_LOADED, block_map.shape.nodes))
            try:
                contents = await block_map.nodes(numbers)
            except MoverError:
                contents = [await self._node(block_map, number, point) for number in numbers]
            for number, content in zip(numbers, contents, strict=True):
                self._blocks(point, disk, number * disk.fan_out, content)

    async def _node(self, block_map: MapReader, number: int, point: str) -> bytes:
        """One by one, so that each damaged one is named; nothing for such a one."""
        try:
            return (await block_map.nodes([number]))[0]
        except MoverError as error:
            self._note(str(error.facts.get("object") or error.facts.get("name") or "a pack"), error.message, point)
            return b""

    def _blocks(self, point: str, disk: DiskImage, first_block: int, content: bytes) -> None:
        places = self._reader.locate(content)
        self._report.blocks += int((places.state == PlaceState.STORED).sum())
        lost = np.flatnonzero((places.state == PlaceState.MISSING) | (places.state == PlaceState.LOST))
        if len(lost):
            at = int(lost[0])
            block_id = content[at * ID_BYTES : (at + 1) * ID_BYTES].hex()
            what = f"{len(lost)} blocks of disk {disk.slot} are in no pack, the first is block {first_block + at}"
            self._note(f"block {block_id}", what, point)
        self._places(point, places)

    def _places(self, point: str, places: BlockPlaces) -> None:
        ends = places.offset_bytes + places.stored_bytes
        for pack_no in np.unique(places.pack_no[places.state == PlaceState.STORED]):
            name = self._reader.pack_name(int(pack_no))
            size = self._sizes.get(name)
            if size is None:
                self._note(name, f"{name} is missing", point)
            elif int(ends[places.pack_no == pack_no].max()) > size:
                self._note(name, f"{name} is shorter than the index says", point)
