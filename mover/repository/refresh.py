"""Brings the local index up to what the store lists: from index objects, and where one is
damaged from the packs themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from mover.errors import Damaged, ObjectMissing
from mover.repository import layout
from mover.repository.hold import new_session_id
from mover.repository.index import IndexObject, IndexView, LocalIndex, RollCall
from mover.repository.keys import Secrets
from mover.repository.opening import unwritable
from mover.repository.pack import Contents, read_contents
from mover.repository.segment import Part, names_of
from mover.repository.together import side_by_side
from mover.storage.protocol import ObjectInfo, Store

FETCH_BYTES = 32 << 20
"""Index objects taken in together: the bound of memory while a cache is rebuilt."""
PACKS_PER_OBJECT = 64
"""Packs that one rebuilt index object lists."""
READS_IN_FLIGHT = 8
_NAMES_AT_ONCE = 1000
"""Of listed objects, compared with the cached ones in one hop to the helper."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class IndexCache:
    """The local index of one repository and how it follows the store. Used on one loop."""

    def __init__(self, store: Store, secrets: Secrets, local: LocalIndex, helper: ThreadPoolExecutor) -> None:
        """helper: one thread, so that changes of ``local`` never overlap."""
        self.local = local
        self.problems: dict[str, Damaged] = {}
        """Index objects and packs that could not be read at the last refresh, by name."""
        self._store, self._secrets, self._helper = store, secrets, helper
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Take in what is new, forget what is gone. Raises StorageError."""
        async with self._lock:
            await self._follow_objects()
            if self.problems:
                await self._ask_packs()

    async def widen(self, view: IndexView) -> IndexView:
        """That view, and what it lacks: later index objects, and packs that no index object lists."""
        async with self._lock:
            await self._follow_objects()
            await self._ask_packs()
            return view.joined(self.local.view(view.suspects))

    async def _ask_packs(self) -> None:
        """Have unlisted packs tell of themselves."""
        async for batch in self._unlisted_packs():
            part = IndexObject.of("packs", 0, batch).part()
            # Not the name of an index object: the next refresh drops these rows and looks again.
            await self._add([part._replace(sources=names_of([layout.pack_name(batch[0].pack_id)]))])

    async def _follow_objects(self) -> None:
        # Each backup brings an index object: of those that are cached and there, nothing is held.
        called, new = await self._roll_call(), list[ObjectInfo]()
        async for page in self._index_pages():
            known = await self.off_loop(partial(called.answer, [info.name for info in page]))
            new += [info for info, is_known in zip(page, known, strict=True) if not is_known]
        await self.off_loop(lambda: self.local.keep(called))
        self.problems, replaced = {}, set[str]()
        for batch in _batches(new):
            found = [one for one in await self._gather(batch, self._read_index) if one is not None]
            replaced.update(name for one in found for name in one.replaces)
            await self._add([one.part() for one in found])
        self.problems = {name: error for name, error in self.problems.items() if name not in replaced}

    async def _roll_call(self) -> RollCall:
        # On the helper, behind a change whose caller was cancelled: that one goes on, and the lock is free.
        return await self.off_loop(self.local.roll_call)

    async def _index_infos(self) -> AsyncIterator[ObjectInfo]:
        async for info in self._store.list(layout.INDEX):
            if layout.index_number(info.name) is not None:
                yield info

    async def _index_pages(self) -> AsyncIterator[list[ObjectInfo]]:
        page: list[ObjectInfo] = []
        async for info in self._index_infos():
            page.append(info)
            if len(page) == _NAMES_AT_ONCE:
                yield page
                page = []
        if page:
            yield page

    async def install(self, delta: IndexObject) -> None:
        """Take in an index object that we have just written."""
        async with self._lock:
            await self._add([delta.part()])

    async def rebuild(self) -> list[str]:
        """Write index objects for packs that no readable one lists, in place of damaged ones.

        The names of the new objects. The damaged ones stay where they are, for a collector: the new ones name them.
        """
        async with self._lock:
            await self._follow_objects()
            found = await self.damaged()
            # What the cache still knows of a damaged one is read from its packs again.
            called = await self._roll_call()
            async for page in self._index_pages():
                whole = [info.name for info in page if info.name not in found]
                await self.off_loop(partial(called.answer, whole))
            await self.off_loop(lambda: self.local.keep(called))
            damaged = sorted(found)
            session_id, waiting = new_session_id(), list[Contents]()
            made: list[str] = []

            async def write(contents: Sequence[Contents], replaces: Sequence[str] = ()) -> None:
                fresh = IndexObject.of(session_id, len(made), contents, replaces)
                await self._store.create(fresh.name, await self.off_loop(partial(fresh.seal, self._secrets)))
                made.append(fresh.name)

            async for batch in self._unlisted_packs():
                if waiting:
                    await write(waiting)
                waiting = batch
            if waiting or damaged:
                # Only the last one says what they all stand for: until it is there, they do not.
                await write(waiting, damaged)
        await self.refresh()
        return made

    async def damaged(self) -> dict[str, Damaged]:
        """Index objects that are not whole and that no whole one replaces, by name: reads each, cached or not."""
        found, replaced = dict[str, Damaged](), set[str]()

        async def look(info: ObjectInfo) -> None:
            try:
                stored = await self._store.get(info.name)
                whole = await self.off_loop(lambda: IndexObject.open(self._secrets, info.name, stored))
                replaced.update(whole.replaces)
            except ObjectMissing:
                return
            except Damaged as error:
                found[info.name] = error

        await side_by_side(look, [info async for info in self._index_infos()], at_once=READS_IN_FLIGHT)
        return {name: error for name, error in found.items() if name not in replaced}

    def close(self) -> None:
        """Let go of the helper thread."""
        self._helper.shutdown(wait=True)

    async def _read_index(self, info: ObjectInfo) -> IndexObject | None:
        try:
            return IndexObject.open(self._secrets, info.name, await self._store.get(info.name))
        except ObjectMissing:
            return None
        except Damaged as error:
            self.problems[info.name] = error
            return None

    async def _unlisted_packs(self) -> AsyncIterator[list[Contents]]:
        """Contents of all packs that the index does not list, some at a time; damaged ones become problems."""
        listed = self.local.view().pack_ids()
        infos = [info async for info in self._store.list(layout.PACKS)]
        wanted = [info for info in infos if (pack_id := layout.pack_id_of(info.name)) and pack_id not in listed]
        for at in range(0, len(wanted), PACKS_PER_OBJECT):
            found = await self._gather(wanted[at : at + PACKS_PER_OBJECT], self._read_pack)
            if contents := [one for one in found if one is not None]:
                yield contents

    async def _read_pack(self, info: ObjectInfo) -> Contents | None:
        pack_id = layout.pack_id_of(info.name)
        assert pack_id is not None
        try:
            return await read_contents(self._store, self._secrets, pack_id, info.size_bytes)
        except ObjectMissing:
            return None
        except Damaged as error:
            self.problems[info.name] = error
            return None

    async def _gather(self, items: Sequence[_Item], ask: Callable[[_Item], Awaitable[_Answer]]) -> list[_Answer]:
        return await side_by_side(ask, items, at_once=READS_IN_FLIGHT)

    async def _add(self, parts: Sequence[Part]) -> None:
        await self.off_loop(lambda: self.local.add(parts))

    async def off_loop(self, work: Callable[[], _Answer]) -> _Answer:
        """Run it on the helper thread. Raises RepositoryError when the local index cannot be written."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._helper, work)
        except OSError as error:
            raise unwritable(error) from error


def _batches(infos: Sequence[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    batch: list[ObjectInfo] = []
    for info in infos:
        if batch and sum(one.size_bytes for one in batch) + info.size_bytes > FETCH_BYTES:
            yield batch
            batch = []
        batch.append(info)
    if batch:
        yield batch
