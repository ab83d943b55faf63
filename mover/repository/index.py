"""Where every record lies: index objects in the store, segments on this machine.

The store's index objects are the truth that packs can tell again; segments are a cache
of them that may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from mover.model.point import ID_BYTES, LOST_ID, ZERO_ID
from mover.repository import layout, segment
from mover.repository.keys import Secrets
from mover.repository.layout import ObjectKind
from mover.repository.pack import Contents
from mover.repository.rows import INDEX_ROW_DTYPE, PACK_ROW_DTYPE
from mover.repository.seal import damaged, open_object, seal_object
from mover.repository.segment import Part, Segment, SegmentUnfit

SEGMENTS_PER_SIZE = 4
"""Segments of about one size before they are merged: a lookup stays below some twenty of them."""


# --- index objects ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class IndexObject:
    """The content of one object below ``index/``."""

    name: str
    session_id: str
    number: int
    replaces: tuple[str, ...]
    packs: NDArray[Any]
    rows: NDArray[Any]
    """INDEX_ROW_DTYPE, ascending."""

    @classmethod
    def of(
        cls, session_id: str, number: int, contents: Sequence[Contents], replaces: Sequence[str] = ()
    ) -> IndexObject:
        """All records of some packs."""
        packs = np.zeros(len(contents), PACK_ROW_DTYPE)
        rows = np.zeros(sum(len(pack.table) for pack in contents), INDEX_ROW_DTYPE)
        begin = 0
        for at, pack in enumerate(contents):
            packs[at] = (list(pack.pack_id), list(pack.key_id), pack.pack_bytes, len(pack.table), 0)
            part = rows[begin : begin + len(pack.table)]
            for column in ("key", "tail", "offset", "stored", "plain"):
                part[column] = pack.table[column]
            part["pack"] = at
            begin += len(pack.table)
        order = np.argsort(rows["key"], kind="stable")
        name = layout.index_name(session_id, number)
        return cls(name, session_id, number, tuple(replaces), packs, rows[order])

    def seal(self, secrets: Secrets, *, salt: bytes | None = None) -> list[bytes]:
        """The parts to put. salt: for tests only."""
        header = {"number": self.number, "replaces": list(self.replaces), "session": self.session_id}
        sections = [orjson.dumps(header), self.packs.tobytes(), self.rows.tobytes()]
        return seal_object(secrets, ObjectKind.INDEX, self.name, sections, salt=salt)

    @classmethod
    def open(cls, secrets: Secrets, name: str, stored: bytes) -> IndexObject:
        """Raises Damaged."""
        header, packs_plain, rows_plain = open_object(secrets, ObjectKind.INDEX, name, stored, sections=3)
        try:
            content = orjson.loads(header)
            packs = np.frombuffer(packs_plain, PACK_ROW_DTYPE)
            rows = np.frombuffer(rows_plain, INDEX_ROW_DTYPE)
            found = cls(name, content["session"], int(content["number"]), tuple(content["replaces"]), packs, rows)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(name, f"a field is wrong ({error})") from None
        if len(rows) and int(rows["pack"].max()) >= len(packs):
            raise damaged(name, "a row names no pack")
        if not all(isinstance(one, str) and layout.index_number(one) is not None for one in found.replaces):
            raise damaged(name, "it replaces what is no index object")
        return found

    def part(self) -> Part:
        """As material for a segment."""
        packs = self.packs.copy()
        packs["reserved"] = 0
        rows = np.empty(len(self.rows), segment.ROW_DTYPE)
        rows["tail"] = np.ascontiguousarray(self.rows["tail"]).view(np.uint64)
        for column in ("pack", "offset", "stored", "plain"):
            rows[column] = self.rows[column]
        keys = self.rows["key"].astype(np.uint64)
        # What it stands for counts as taken in: that may be damaged, and need not be read again.
        return Part(segment.names_of([self.name, *self.replaces]), packs, keys, rows, np.ones(len(packs), bool))


# --- places -------------------------------------------------------------------------


class PlaceState(IntEnum):
    """What is known of a block id."""

    STORED = 0
    ZERO = 1
    LOST = 2
    MISSING = 3


class BlockPlaces(NamedTuple):
    """Columns, one row per id asked for. Where ``state`` is not STORED the others are -1 or 0."""

    pack_no: NDArray[np.int64]
    """Valid for the view that made it, as argument of ``pack_name`` and ``open_block``."""
    offset_bytes: NDArray[np.int64]
    stored_bytes: NDArray[np.int64]
    """Length of the whole record: read exactly these bytes."""
    plain_bytes: NDArray[np.int64]
    state: NDArray[np.uint8]


class PackPlace(NamedTuple):
    pack_id: bytes
    key_id: bytes
    pack_bytes: int


class IndexView:
    """The index at one moment; immutable, for any number of threads."""

    def __init__(self, segments: Sequence[Segment], suspects: Collection[bytes] = ()) -> None:
        """suspects: ids of packs that serve only where no other pack does."""
        self._segments = tuple(segments)
        self._first_packs = np.cumsum([0, *(len(one.packs) for one in segments)])
        self.suspects = frozenset(suspects)
        self._avoided = [one.mask(self.suspects) if self.suspects else None for one in segments]

    def locate(self, ids: bytes | memoryview) -> BlockPlaces:
        """ids: 32 bytes each."""
        table = np.frombuffer(ids, np.uint64).reshape(-1, ID_BYTES // 8)
        keys, tails = table[:, 0].byteswap() if _IS_LITTLE else table[:, 0], table[:, 1:]
        count = len(table)
        places = np.full((4, count), 0, np.int64)
        places[0] = -1
        state = np.full(count, PlaceState.MISSING, np.uint8)
        state[(table == np.frombuffer(ZERO_ID, np.uint64)).all(axis=1)] = PlaceState.ZERO
        state[(table == np.frombuffer(LOST_ID, np.uint64)).all(axis=1)] = PlaceState.LOST
        rounds = [*enumerate(self._avoided)]
        rounds += [(number, None) for number, avoided in rounds if avoided is not None]
        for number, avoided in rounds:
            waiting = np.flatnonzero(state == PlaceState.MISSING)
            if not len(waiting):
                break
            one = self._segments[number]
            found = one.locate(keys[waiting], tails[waiting], avoided)
            hit, rows = waiting[found >= 0], one.rows[found[found >= 0]]
            state[hit] = PlaceState.STORED
            places[0, hit] = rows["pack"].astype(np.int64) + self._first_packs[number]
            for line, column in enumerate(("offset", "stored", "plain"), 1):
                places[line, hit] = rows[column]
        return BlockPlaces(places[0], places[1], places[2], places[3], state)

    def pack(self, pack_no: int) -> PackPlace:
        """Identity and size of a pack."""
        number = int(np.searchsorted(self._first_packs, pack_no, side="right")) - 1
        row = self._segments[number].packs[pack_no - int(self._first_packs[number])]
        return PackPlace(row["pack_id"].tobytes(), row["key_id"].tobytes(), int(row["pack_bytes"]))

    def pack_ids(self) -> set[bytes]:
        """Every pack that an index object lists: not those that only told of themselves."""
        found: set[bytes] = set()
        for one in self._segments:
            part = one.part()
            is_object = np.char.startswith(part.sources, layout.INDEX.encode())
            packs = part.packs[part.kept]
            found.update(row.tobytes() for row in packs["pack_id"][is_object[packs["reserved"]]])
        return found

    def packs(self) -> dict[bytes, int]:
        """Id → bytes of every pack that is known here."""
        parts = [one.part() for one in self._segments]
        return {row["pack_id"].tobytes(): int(row["pack_bytes"]) for part in parts for row in part.packs[part.kept]}

    def is_suspect(self, places: BlockPlaces) -> NDArray[np.bool_]:
        """Which of these places are in a suspect pack: the ids were found nowhere else."""
        if not self.suspects or not self._segments:
            return np.zeros(len(places.pack_no), bool)
        masks = zip(self._avoided, self._segments, strict=True)
        suspect = np.concatenate([np.zeros(len(one.packs), bool) if mask is None else mask for mask, one in masks])
        found = np.zeros(len(places.pack_no), bool)
        is_here = places.pack_no >= 0
        found[is_here] = suspect[places.pack_no[is_here]]
        return found

    def joined(self, later: IndexView) -> IndexView:
        """This view and behind it a later one: pack numbers of this one stay valid."""
        return IndexView((*self._segments, *later._segments), self.suspects | later.suspects)


_IS_LITTLE = np.little_endian


# --- the local cache ----------------------------------------------------------------


class RollCall:
    """Which of the cached index objects are still in the store: one byte for each, whatever it lists."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._segments = segments
        self.there = [np.zeros(len(one.sources), bool) for one in segments]
        """Per segment, per source."""

    def answer(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """These are in the store. Which of them are cached."""
        wanted, known = segment.names_of(names), np.zeros(len(names), bool)
        for one, there in zip(self._segments, self.there, strict=True):
            at = one.find_sources(wanted)
            there[at[at >= 0]] = True
            known |= at >= 0
        return known


class LocalIndex:
    """The segments of one repository in one folder. Changes come from one thread at a time.

    Several processes may share the folder: files are only added whole, and deleted when
    others hold the same; a mapping outlives its file.
    """

    def __init__(self, folder: Path) -> None:
        """Load what is there and whole; remove the rest."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.segments: tuple[Segment, ...] = ()
        self._load()

    def _load(self) -> None:
        found = []
        segment.remove_drafts(self._folder)
        for path in sorted(self._folder.glob("*.segment")):
            try:
                found.append(Segment(path))
            except (SegmentUnfit, FileNotFoundError):
                path.unlink(missing_ok=True)
        for one in sorted(found, key=lambda one: len(one.sources), reverse=True):
            if _is_covered(one, self.segments):
                one.path.unlink(missing_ok=True)
            else:
                self.segments += (one,)

    def roll_call(self) -> RollCall:
        """Of all that is cached now; ``keep`` ends it, before anything else changes."""
        return RollCall(self.segments)

    def has(self, block_id: bytes, dead: Collection[bytes]) -> bool:
        """Any thread; a few microseconds."""
        return any(one.has(block_id, dead) for one in self.segments)

    def view(self, suspects: Collection[bytes] = ()) -> IndexView:
        return IndexView(self.segments, suspects)

    def keep(self, called: RollCall) -> None:
        """Forget the index objects that did not answer: the store has them no longer."""
        left = []
        for one, there in zip(self.segments, called.there, strict=True):
            if there.any():
                left.append(one.only(there))
            else:
                one.path.unlink(missing_ok=True)
        self.segments = tuple(left)

    def add(self, parts: Sequence[Part]) -> None:
        """Take in new material, then merge segments of like size. Raises OSError."""
        if parts:
            self._swap([], [segment.build(self._folder, parts)])
        while crowd := _crowd(self.segments):
            self._swap(crowd, [segment.build(self._folder, [one.part() for one in crowd])])

    def _swap(self, old: Sequence[Segment], new: Sequence[Segment]) -> None:
        # Lookups read the tuple once: they see all of the former or all of the new.
        self.segments = (*(one for one in self.segments if one not in old), *new)
        for one in old:
            one.path.unlink(missing_ok=True)


def _is_covered(one: Segment, others: Sequence[Segment]) -> bool:
    """Whether they hold all that it holds."""
    for begin in range(0, len(one.sources), segment.CHUNK_ROWS):
        names = one.sources[begin : begin + segment.CHUNK_ROWS]
        if not np.any([other.find_sources(names) >= 0 for other in others], axis=0).all():
            return False
    return True


def _crowd(segments: Sequence[Segment]) -> list[Segment]:
    """Segments of one size class (powers of four) that are too many."""
    classes: dict[int, list[Segment]] = {}
    for one in segments:
        classes.setdefault((len(one) >> 10).bit_length() // 2, []).append(one)
    return next((some for some in classes.values() if len(some) >= SEGMENTS_PER_SIZE), [])
