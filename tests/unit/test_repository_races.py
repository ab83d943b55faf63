"""Two sessions, or two threads of one, in the moments when they could mislead each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mover.model.point import DiskImage
from mover.repository.codec import Codecs
from mover.repository.packer import Packer
from mover.repository.repository import Repository
from mover.repository.session import Session
from mover.repository.verify import check
from mover.storage.memory import MemoryStore
from tests.support.repositories import BLOCK, VM, image, make, names, open_in, point, restore

DATA = b"data" * (BLOCK // 4)


class Interloper:
    """A packer's condition that lets someone in as soon as its lock is free for the first time."""

    def __init__(self, inner: Any, enter: Callable[[], None]) -> None:
        self._inner, self._enter = inner, enter

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)
        enter, self._enter = self._enter, lambda: None
        enter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def let_in(packer: Packer, enter: Callable[[], None]) -> None:
    packer._changed = Interloper(packer._changed, enter)


class Slow:
    """Compression that waits, and may fail, in the first thread that comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        whole, is_first = Codecs.pack, iter([True])

        def pack(codecs: Codecs, plain: Any) -> Any:
            if next(is_first, False):
                self.inside.set()
                self.go_on.wait()
                if error is not None:
                    raise error
            return whole(codecs, plain)

        monkeypatch.setattr(Codecs, "pack", pack)


async def one_block_disk(session: Session, block_id: bytes) -> DiskImage:
    builder = session.new_map(size_bytes=BLOCK, block_bytes=BLOCK, fan_out=8)
    builder.put(0, block_id)
    return image(BLOCK, await asyncio.get_running_loop().run_in_executor(None, builder.finish))


async def commits_whole(repository: Repository, session: Session, block_id: bytes) -> None:
    disk = await one_block_disk(session, block_id)
    await session.commit(point(session.id, [disk], "p1"))
    await session.end()
    assert await restore(repository, "p1") == [DATA]
    assert (await check(repository)).is_clean


async def test_a_block_found_while_its_last_owner_leaves_is_not_lost(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    leaving = await repository.open_session(points=[])
    living = await repository.open_session(points=[(VM, "p1")])
    leaving.store_block(memoryview(DATA))
    found: list[bytes] = []
    let_in(repository._tools.packer, lambda: found.append(living.store_block(memoryview(DATA)).id))
    await leaving.end()
    await commits_whole(repository, living, found[0])
    await repository.close()


async def test_a_block_found_while_its_interrupted_upload_is_dropped_is_not_lost(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    packer = repository._tools.packer
    leaving = await repository.open_session(points=[])
    living = await repository.open_session(points=[(VM, "p1")])
    leaving.store_block(memoryview(DATA))
    packer.close_for(leaving)
    taken = packer.take()
    assert taken is not None
    await leaving.end()
    found: list[bytes] = []
    let_in(packer, lambda: found.append(living.store_block(memoryview(DATA)).id))
    packer.give_back(taken)
    await commits_whole(repository, living, found[0])
    await repository.close()


async def test_who_was_promised_a_block_that_could_not_be_stored_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repository = await open_in(await make(), tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    slow = Slow(monkeypatch, MemoryError("none left"))
    with ThreadPoolExecutor(1) as thread:
        storing = thread.submit(one.store_block, memoryview(DATA))
        slow.inside.wait()
        promised = one.store_block(memoryview(DATA))
        assert promised.kind == "known"
        slow.go_on.set()
        with pytest.raises(MemoryError):
            storing.result()
    with pytest.raises(MemoryError):
        await one.flush()
    await one.end()
    await repository.close()


async def test_a_flush_waits_for_blocks_that_were_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    slow = Slow(monkeypatch)
    with ThreadPoolExecutor(1) as thread:
        storing = thread.submit(one.store_block, memoryview(DATA))
        slow.inside.wait()
        promised = one.store_block(memoryview(DATA))
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            flushing = group.create_task(one.flush())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not flushing.done()
            slow.go_on.set()
        assert storing.result().kind == "new"
    assert len(names(store, "packs/")) == len(names(store, "index/")) == 1
    await commits_whole(repository, one, promised.id)
    await repository.close()


class Held(MemoryStore):
    """Packs wait at the door."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.opened = asyncio.Event(), asyncio.Event()

    async def create(self, name: str, parts: Any) -> None:
        if name.startswith("packs/"):
            self.is_asked.set()
            await self.opened.wait()
        await super().create(name, parts)


async def test_a_flush_does_not_wait_for_what_other_disks_store_meanwhile(tmp_path: Path):
    store = Held()
    repository = await open_in(await make(store), tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    stored = one.store_block(memoryview(DATA))
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(one.flush())
        await store.is_asked.wait()
        assert one.store_block(memoryview(b"more" * 100)).kind == "new"
        store.opened.set()
    assert len(names(store, "packs/")) == len(names(store, "index/")) == 1
    await commits_whole(repository, one, stored.id)
    await repository.close()
