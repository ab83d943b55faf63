"""Packs that several sessions share: uploads held back, refused and sent again, slots, memory."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest

from mover.errors import RepositoryError, StoreFull
from mover.repository.verify import check
from tests.support.repositories import (
    VM,
    Gate,
    backup,
    blocks_of,
    copy_into,
    make,
    names,
    on_thread,
    open_in,
    point,
    restore,
    until,
)


async def test_two_sessions_share_packs_and_both_are_whole(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path, pack_bytes=1 << 20)
    shared, own = blocks_of(1, 20), blocks_of(2, 10)
    first = await repository.open_session(points=[(VM, "p1")])
    second = await repository.open_session(points=[(VM, "p2")])
    async with asyncio.TaskGroup() as group:
        group.create_task(first.run())
        group.create_task(second.run())
        one, _ = await copy_into(first, [*shared[:-1], *own])
        two, kinds = await copy_into(second, shared)
        assert kinds.count("known") > 10
        await second.commit(point(second.id, [two], "p2"))
        await second.end()
        assert (await check(repository)).is_clean
        await first.commit(point(first.id, [one], "p1"))
        await first.end()
    assert await restore(repository, "p1") == [*shared[:-1], *own]
    assert await restore(repository, "p2") == shared
    assert (await check(repository)).is_clean
    await repository.close()


async def test_a_session_that_dies_takes_no_other_with_it(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path, pack_bytes=1 << 20)
    dying = await repository.open_session(points=[(VM, "p1")])
    living = await repository.open_session(points=[(VM, "p2")])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(dying.run())
        blocks = blocks_of(1, 20)
        await copy_into(dying, blocks)
        disk, kinds = await copy_into(living, blocks)
        assert "new" not in kinds
        running.cancel()
    with pytest.raises(RepositoryError, match="interrupted"):
        dying.store_block(memoryview(b"more" * 100))
    await living.commit(point(living.id, [disk], "p2"))
    await living.end()
    assert await restore(repository, "p2") == blocks
    await repository.close()


async def test_a_failed_upload_fails_all_who_rely_on_it_and_no_one_else(tmp_path: Path):
    store = Gate()
    await make(store)
    repository = await open_in(store, tmp_path, pack_bytes=1 << 20)
    blocks = blocks_of(1, 10)
    one = await repository.open_session(points=[(VM, "p1")])
    two = await repository.open_session(points=[(VM, "p2")])
    three = await repository.open_session(points=[(VM, "p3")])
    disk, _ = await copy_into(one, blocks)
    await copy_into(two, blocks)
    store.refuse = StoreFull("full", remedy="make room")
    with pytest.raises(StoreFull):
        await one.commit(point(one.id, [disk], "p1"))
    with pytest.raises(StoreFull):
        await two.flush()
    with pytest.raises(StoreFull):
        await two.run()
    store.refuse = None
    third, kinds = await copy_into(three, blocks)
    assert "known" not in kinds
    await three.commit(point(three.id, [third], "p3"))
    for each in (one, two, three):
        await each.end()
    assert [line.id for line in await repository.points()] == ["p3"]
    assert await restore(repository, "p3") == blocks
    await repository.close()


async def test_an_interrupted_upload_is_sent_again_with_the_same_bytes(tmp_path: Path):
    store = Gate()
    await make(store)
    repository = await open_in(store, tmp_path, pack_bytes=1 << 20)
    one = await repository.open_session(points=[(VM, "p1")])
    two = await repository.open_session(points=[(VM, "p2")])
    blocks = blocks_of(1, 10)
    await copy_into(one, blocks)
    disk, _ = await copy_into(two, blocks)
    store.opened.clear()
    async with asyncio.TaskGroup() as group:
        flushing = group.create_task(one.flush())
        await store.waiting.wait()
        flushing.cancel()
    store.opened.set()
    await one.end()
    await two.commit(point(two.id, [disk], "p2"))
    await two.end()
    assert len(names(store, "packs/")) == 1
    assert await restore(repository, "p2") == blocks
    await repository.close()


async def test_packs_in_memory_are_bounded_and_reserved(tmp_path: Path):
    store = Gate()
    await make(store)
    held: list[int] = []
    most = 0

    def reserve(size: int) -> None:
        nonlocal most
        held.append(size)
        most = max(most, len(held))

    repository = await open_in(store, tmp_path, pack_bytes=10_000, uploads=2, reserve=reserve, release=held.remove)
    blocks = [random.Random(number).randbytes(4096) for number in range(30)]
    one = await repository.open_session(points=[(VM, "p1")])
    store.opened.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(one.run())
        copying = group.create_task(copy_into(one, blocks))
        await until(lambda: len(held) == 3)
        await store.waiting.wait()
        assert not copying.done()
        store.opened.set()
        disk, _ = await copying
        await one.commit(point(one.id, [disk], "p1"))
        await one.end()
    assert most == 3
    assert held == []
    assert await restore(repository, "p1") == blocks
    await repository.close()


async def is_interrupted(copying: Awaitable[object]) -> None:
    with pytest.raises(RepositoryError, match="interrupted"):
        await copying


async def test_a_thread_that_waits_for_a_slot_hears_of_the_end(tmp_path: Path):
    store = Gate()
    await make(store)
    held: list[int] = []
    repository = await open_in(store, tmp_path, pack_bytes=10_000, uploads=1, reserve=held.append, release=held.remove)
    one = await repository.open_session(points=[])
    store.opened.clear()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run())
        group.create_task(is_interrupted(copy_into(one, [random.Random(n).randbytes(4096) for n in range(20)])))
        await until(lambda: len(held) == 2)
        await store.waiting.wait()
        running.cancel()
    assert held == []
    await one.end()
    await repository.close()


async def test_a_pack_that_is_opened_when_its_session_ends_is_let_go(tmp_path: Path):
    store = Gate()
    await make(store)
    held: list[int] = []
    is_opening, may_open = threading.Event(), threading.Event()

    def reserve(size_bytes: int) -> None:
        if held:
            is_opening.set()
            assert may_open.wait(30)
        held.append(size_bytes)

    repository = await open_in(store, tmp_path, pack_bytes=10_000, uploads=1, reserve=reserve, release=held.remove)
    one = await repository.open_session(points=[])
    store.opened.clear()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run())
        copying = group.create_task(
            is_interrupted(copy_into(one, [random.Random(n).randbytes(4096) for n in range(20)]))
        )
        await until(is_opening.is_set)
        one.interrupt()
        may_open.set()
        await copying
        running.cancel()
    assert held == []
    await one.end()
    await repository.close()


async def test_reserving_may_fail(tmp_path: Path):
    def refuse(_: int) -> None:
        raise MemoryError("no room")

    repository = await open_in(await make(), tmp_path, reserve=refuse)
    one = await repository.open_session(points=[])
    for _ in range(5):
        with pytest.raises(MemoryError):
            await on_thread(lambda: one.store_block(memoryview(b"data" * 100)))
    await one.end()
    await repository.close()


async def test_a_block_larger_than_a_pack_gets_a_pack_of_its_own(tmp_path: Path):
    repository = await open_in(await make(), tmp_path, pack_bytes=1000)
    blocks = blocks_of(1, 6)
    await backup(repository, blocks, "p1")
    assert await restore(repository, "p1") == blocks
    await repository.close()
