"""The facade: one per process and repository.

Control (open, list, load, delete, sessions) is async and on one loop; the data plane is
in the sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mover.clock import Clock
from mover.errors import Damaged, ObjectMissing, StoreDenied, StoreFull
from mover.model.point import PointSummary, RestorePoint
from mover.repository import layout, opening
from mover.repository.codec import Codecs
from mover.repository.hold import Hold, SessionRecord, voided
from mover.repository.index import LocalIndex
from mover.repository.keys import DEFAULT_COST, Descriptor, ScryptCost
from mover.repository.layout import Cipher
from mover.repository.pack import Contents, RecordOpener, check_records, read_contents
from mover.repository.packer import Packer
from mover.repository.pointbook import PointBook
from mover.repository.points import Lines, judge
from mover.repository.reader import ReadSession
from mover.repository.records import Records, Widen
from mover.repository.refresh import IndexCache
from mover.repository.repair import Repaired, repair
from mover.repository.session import Session
from mover.repository.suspects import list_suspects, mark_suspect
from mover.repository.tools import Tools
from mover.repository.verify import CheckReport, check
from mover.storage.protocol import Store
from mover.units import MIB

_LINES_LIFE_S = 6 * 3600.0
"""So soon a daemon's lists show that a manifest was damaged in its store; what loads or verifies it sees it at once."""


class Repository:
    """See the module. Make one with ``open``; close it."""

    def __init__(self, descriptor: Descriptor, tools: Tools, opener: RecordOpener, cache: IndexCache) -> None:
        self.store = tools.store
        self.id = descriptor.repository_id.hex()
        self.is_encrypted = descriptor.cipher is not Cipher.NONE
        self._descriptor, self._tools, self._opener, self._cache = descriptor, tools, opener, cache
        self._secrets, self._clock = tools.secrets, tools.clock
        self._book = PointBook(tools.store, tools.secrets, Lines(tools.clock, _LINES_LIFE_S))

    @classmethod
    async def init(cls, store: Store, *, passphrase: str | None, clock: Clock, cost: ScryptCost = DEFAULT_COST) -> str:
        """Make a repository in an empty place; its id. passphrase None: without encryption. Raises TargetExists."""
        with ThreadPoolExecutor(1, "mover-keys") as helper:
            descriptor = await opening.make(store, passphrase=passphrase, clock=clock, cost=cost, helper=helper)
        return descriptor.repository_id.hex()

    @classmethod
    async def open(
        cls,
        store: Store,
        *,
        passphrase: str | None,
        cache_dir: Path,
        clock: Clock,
        pack_bytes: int = 32 * MIB,
        uploads: int = 2,
        paranoid: bool = False,
        level: int = 1,
        heartbeat_s: float = 60.0,
        reserve: Callable[[int], None] = lambda _: None,
        release: Callable[[int], None] = lambda _: None,
    ) -> Repository:
        """reserve, release: called with the bytes of a pack, once per pack in memory; reserve may block.

        Raises RepositoryMissing, WrongKey, FormatUnsupported, Damaged, StorageError.
        """
        helper = ThreadPoolExecutor(1, "mover-index")
        try:
            descriptor, secrets, folder = await opening.enter(
                store, passphrase=passphrase, cache_dir=cache_dir, helper=helper
            )
            local = await asyncio.get_running_loop().run_in_executor(helper, LocalIndex, folder / "index")
        except BaseException as error:
            helper.shutdown(wait=False)
            if isinstance(error, OSError):
                raise opening.unwritable(error) from error
            raise
        codecs = Codecs(level)
        opener = RecordOpener(secrets, codecs)
        cache = IndexCache(store, secrets, local, helper)
        packer = Packer(
            secrets,
            opener,
            pack_bytes=pack_bytes,
            slots=1 + uploads,
            paranoid=paranoid,
            reserve=reserve,
            release=release,
        )
        tools = Tools(
            store, secrets, clock, codecs, local, packer, cache.install, cache.off_loop, folder, uploads, heartbeat_s
        )
        return cls(descriptor, tools, opener, cache)

    async def close(self) -> None:
        """Let go of the local index; sessions must have ended. The store stays the caller's."""
        self._cache.close()

    # --- points ---

    async def points(self, vm_uuid: str | None = None) -> list[PointSummary]:
        """Newest last. A damaged manifest is listed, with its ``problem``."""
        return await self._book.points(vm_uuid)

    async def find_point(self, text: str) -> PointSummary:
        """By full id, the beginning of one, VM name, or ``name@latest``. Raises NoSuchPoint, AmbiguousName, Damaged."""
        return await self._book.find_point(text)

    async def load(self, point: PointSummary | str) -> RestorePoint:
        """The whole manifest; a text is looked up as ``find_point`` does. Raises Damaged, NoSuchPoint."""
        return await self._book.load(point)

    async def delete_point(self, point_id: str, *, force: bool = False) -> None:
        """Forget a point (full id); its blocks go with the next collection. Raises NoSuchPoint, PointPinned."""
        await self._book.delete_point(point_id, force=force)

    # --- sessions ---

    async def open_session(self, *, points: Sequence[tuple[str, str]], session_id: str | None = None) -> Session:
        """A writer that may commit these (VM UUID, point id), and no others.

        session_id: go on with a former session of ours; what it made durable is known.
        Raises SessionVoided when that one cannot go on, PointConflict when another committed a point.
        """
        self._descriptor.check_writable()
        committed = await self._committed(points, session_id) if session_id else []
        hold = await self._hold(points, session_id, is_done=bool(points) and len(committed) == len(points))
        await self._clock.sleep(self.store.traits.list_lag_s)
        dead = [layout.pack_id_of(info.name) async for info in self.store.list(layout.TOMBSTONES)]
        suspects = await list_suspects(self.store)
        await self._cache.refresh()
        mine = await self._index_numbers(session_id) if session_id else []
        return Session(
            self._tools,
            hold,
            self._records(suspects),
            dead_packs=suspects.union(pack_id for pack_id in dead if pack_id),
            committed=committed,
            next_index=max(mine, default=-1) + 1,
        )

    async def open_reader(self) -> ReadSession:
        """A reader: what its points need is not collected until it ends. Works where nothing can be written too."""
        try:
            hold = await Hold.create(self.store, self._secrets, self._clock, "reader")
        except (StoreDenied, StoreFull):
            hold = None
        await self._clock.sleep(self.store.traits.list_lag_s)
        suspects = await list_suspects(self.store)
        await self._cache.refresh()
        return ReadSession(self._records(suspects, self._cache.widen), hold, self._clock, self._tools.heartbeat_s)

    async def leftovers(self) -> list[SessionRecord]:
        """Sessions that have not ended, of whatever process; unreadable ones are left out."""
        found = []
        async for info in self.store.list(layout.SESSIONS):
            try:
                found.append(SessionRecord.open(self._secrets, info.name, await self.store.get(info.name)))
            except (ObjectMissing, Damaged):
                continue
        return found

    async def _hold(self, points: Sequence[tuple[str, str]], session_id: str | None, *, is_done: bool) -> Hold:
        if session_id is None:
            return await Hold.create(self.store, self._secrets, self._clock, "writer", points)
        hold = await Hold.resume(self.store, self._secrets, self._clock, session_id)
        if hold is None and is_done:
            return await Hold.create(self.store, self._secrets, self._clock, "writer", points, session_id=session_id)
        if hold is None or not set(points) <= set(hold.record.points):
            raise voided(session_id)
        return hold

    async def _committed(self, points: Sequence[tuple[str, str]], session_id: str) -> list[str]:
        """Names of the points that this session has committed. Raises SessionVoided, PointConflict."""
        found = []
        for vm_uuid, point_id in points:
            name = layout.point_name(vm_uuid, point_id)
            if await self.store.info(name) is None:
                continue
            judge(name, await self.store.get(name), self._secrets, session_id)
            found.append(name)
        return found

    async def _index_numbers(self, session_id: str) -> list[int]:
        """Of the index objects that this session has written."""
        infos = self.store.list(layout.index_name(session_id, 0)[:-8])
        return [layout.index_number(info.name) or 0 async for info in infos]

    async def check(self, point: RestorePoint | None = None) -> CheckReport:
        """Read every object but the blocks, or only index objects and what one point needs.

        Never raises for damage; StorageError when the store fails.
        """
        return await check(self, point)

    # --- index ---

    def listed_packs(self) -> set[bytes]:
        """Ids of all packs that index objects list, as of the last look at them."""
        return self._tools.local_index.view().pack_ids()

    async def pack_contents(self, pack_id: bytes, pack_bytes: int) -> Contents:
        """What a pack says about itself: header, table and footer are checked. Raises Damaged, ObjectMissing."""
        return await read_contents(self.store, self._tools.secrets, pack_id, pack_bytes)

    @property
    def problems(self) -> dict[str, Damaged]:
        """Index objects and packs that the last refresh could not read, by name."""
        return dict(self._cache.problems)

    async def damaged_index(self) -> dict[str, Damaged]:
        """Index objects that are not whole, by name; each is read, whatever the local index knows."""
        return await self._cache.damaged()

    async def rebuild_index(self) -> list[str]:
        """Write index objects for packs that none lists, and replace damaged ones; the new names."""
        return await self._cache.rebuild()

    async def repair(
        self,
        point: RestorePoint | None = None,
        *,
        read_data: bool = False,
        plan: Callable[[int], None] = lambda _: None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Repaired:
        """Mark damaged packs, of all or of one point, so that nothing relies on them; mend the index. Deletes nothing.

        plan, advance: called with the bytes that are to be read, and as they are. Raises StorageError.
        """
        return await repair(self, point, read_data=read_data, plan=plan, advance=advance)

    async def mark_suspect(self, pack_id: bytes, why: str) -> bool:
        """Have no writer rely on a pack any more; False when it was so before."""
        return await mark_suspect(self.store, self._secrets, self._clock, pack_id, why)

    async def check_records(self, contents: Contents, advance: Callable[[int], None]) -> None:
        """Read and open every record of a pack. Raises Damaged, ObjectMissing, StorageError."""
        await check_records(self.store, self._opener, contents, self._cache.off_loop, advance)

    def _records(self, suspects: frozenset[bytes], widen: Widen | None = None) -> Records:
        return Records(self.store, self._opener, self._tools.local_index.view(suspects), widen=widen)
