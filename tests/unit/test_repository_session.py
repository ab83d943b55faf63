"""Sessions: what is stored once, what is resumed, and who is refused."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mover.clock import FakeClock
from mover.errors import Damaged, PointConflict, RepositoryError, SessionVoided
from mover.model.point import ZERO_ID
from mover.repository import deltas, layout
from mover.repository.manifest import seal_manifest
from mover.repository.pack import RecordOpener
from mover.repository.verify import check
from mover.storage.protocol import StoreTraits
from tests.support.faultystore import FaultyStore
from tests.support.repositories import (
    VM,
    backup,
    blocks_of,
    copy_into,
    copy_of,
    make,
    names,
    on_thread,
    open_in,
    point,
    restore,
)


@pytest.mark.parametrize("passphrase", ["secret", None])
@pytest.mark.parametrize("paranoid", [True, False])
async def test_what_is_backed_up_is_restored(passphrase: str | None, paranoid: bool, tmp_path: Path):
    repository = await open_in(
        await make(passphrase=passphrase), tmp_path, passphrase=passphrase, paranoid=paranoid, pack_bytes=20_000
    )
    blocks = blocks_of(1, 50)
    made = await backup(repository, blocks, "p1")
    assert (made.kinds.count("zero"), made.kinds.count("new")) == (10, 40)
    assert await restore(repository, "p1") == blocks
    again = await backup(repository, blocks, "p2")
    assert (again.kinds.count("zero"), again.kinds.count("known")) == (10, 40)
    blocks[7] = b"changed!" * 512
    third = await backup(repository, blocks, "p3", base=again.point.disks[0], changed=[7, 8])
    assert third.kinds == ["new", "known"]
    assert await restore(repository, "p3") == blocks
    assert (await check(repository)).is_clean
    assert await repository.leftovers() == []
    await repository.close()


async def test_ids_and_sizes_are_told(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    one = await repository.open_session(points=[])
    data, zeroes = memoryview(b"data" * 1024), memoryview(bytes(4096))
    stored = await on_thread(lambda: one.store_block(data))
    assert stored.kind == "new"
    assert 0 < stored.stored_bytes < 200
    assert stored.id == one.block_id(data)
    assert await on_thread(lambda: one.store_block(data)) == (stored.id, "known", 0)
    assert await on_thread(lambda: one.store_block(zeroes)) == (ZERO_ID, "zero", 0)
    assert one.block_id(zeroes) == ZERO_ID
    assert one.store_node(b"data" * 1024) != stored.id
    await one.end()
    await repository.close()


async def test_many_threads_store_each_block_once(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[])
    blocks = [random.Random(number).randbytes(4096) for number in range(30)]
    barrier = threading.Barrier(4)

    def work() -> list[str]:
        barrier.wait()
        return [one.store_block(memoryview(block)).kind for block in blocks]

    async with asyncio.TaskGroup() as group:
        group.create_task(one.run())
        with ThreadPoolExecutor(4) as threads:
            loop = asyncio.get_running_loop()
            kinds = await asyncio.gather(*(loop.run_in_executor(threads, work) for _ in range(4)))
        await one.flush()
        await one.end()
    assert sum(one.count("new") for one in kinds) == 30
    await repository.close()


async def test_a_resumed_session_finds_what_was_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deltas, "INDEX_EVERY_PACKS", 1)
    store = await make()
    killed = await open_in(store, tmp_path / "first", pack_bytes=10_000)
    blocks = [random.Random(number).randbytes(4096) for number in range(20)]
    one = await killed.open_session(points=[(VM, "p1")])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run())
        await copy_into(one, blocks[:12])
        await one.flush()
        left = copy_of(store)
        running.cancel()
    await killed.close()
    fresh = await open_in(left, tmp_path / "second", pack_bytes=10_000)
    again = await fresh.open_session(points=[(VM, "p1")], session_id=one.id)
    assert again.id == one.id
    async with asyncio.TaskGroup() as group:
        group.create_task(again.run())
        disk, kinds = await copy_into(again, blocks)
        assert kinds.count("known") == 12
        await again.commit(point(again.id, [disk], "p1"))
        await again.end()
    assert await restore(fresh, "p1") == blocks
    assert (await check(fresh)).is_clean
    assert len(set(names(left, "index/"))) == len(names(left, "index/")) > 1
    await fresh.close()


async def test_a_new_session_lists_the_index_once(tmp_path: Path):
    store = FaultyStore(await make())
    repository = await open_in(store, tmp_path)
    before = len(store.calls)
    await (await repository.open_session(points=[(VM, "p1")])).end()
    assert [call for call in store.calls[before:] if call.startswith("list index/")] == ["list index/"]
    await repository.close()


async def test_committing_again_is_harmless_even_after_the_end(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    made = await backup(repository, blocks_of(1, 5), "p1")
    before = names(store)
    again = await repository.open_session(points=[(VM, "p1")], session_id=made.point.session_id)
    await again.commit(made.point)
    await again.end()
    assert names(store) == before
    await repository.close()


async def test_a_lost_answer_to_the_manifest_is_recognised_as_ours(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    disk, _ = await copy_into(one, blocks_of(1, 5))
    made = point(one.id, [disk], "p1")
    await one.flush()
    await store.create(layout.point_name(VM, "p1"), seal_manifest(repository._tools.secrets, made))
    await one.commit(made)
    await one.end()
    await repository.close()


async def test_of_two_writers_of_one_point_the_first_manifest_wins(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    sessions = [await repository.open_session(points=[(VM, "p1")]) for _ in range(2)]
    disks = [(await copy_into(one, blocks_of(number, 5)))[0] for number, one in enumerate(sessions)]
    await sessions[1].commit(point(sessions[1].id, [disks[1]], "p1"))
    with pytest.raises(PointConflict):
        await sessions[0].commit(point(sessions[0].id, [disks[0]], "p1"))
    with pytest.raises(PointConflict):
        await repository.open_session(points=[(VM, "p1")], session_id=sessions[0].id)
    assert await restore(repository, "p1") == blocks_of(1, 5)
    for one in sessions:
        await one.end()
    await repository.close()


async def test_only_announced_points_are_committed(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    with pytest.raises(ValueError, match="not announced"):
        await one.commit(point(one.id, [], "p2"))
    with pytest.raises(ValueError, match="not announced"):
        await one.commit(point("another session", [], "p1"))
    await one.end()
    await repository.close()


async def test_a_session_that_is_gone_or_announced_other_points_is_not_resumed(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    with pytest.raises(SessionVoided):
        await repository.open_session(points=[(VM, "p2")], session_id=one.id)
    await one.end()
    with pytest.raises(SessionVoided):
        await repository.open_session(points=[(VM, "p1")], session_id=one.id)
    await repository.close()


async def test_blocks_of_tombstoned_packs_are_stored_anew(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    blocks = blocks_of(1, 10)
    await backup(repository, blocks, "p1")
    dead, index = names(store, "packs/"), names(store, "index/")
    for name in dead:
        pack_id = layout.pack_id_of(name)
        assert pack_id
        await store.create(layout.tombstone_name(pack_id), [b"any"])
    again = await backup(repository, blocks, "p2")
    assert "known" not in again.kinds
    # The sweep: index entries, then the pack, then the tombstone.
    for name in index:
        await store.delete(name)
    for name in dead:
        await store.delete(name)
    for name in names(store, "tombstones/"):
        await store.delete(name)
    assert await restore(repository, "p1") == blocks
    assert (await backup(repository, blocks, "p3")).kinds.count("known") == 8
    assert (await check(repository)).is_clean
    await repository.close()


async def test_a_session_waits_out_the_list_lag_before_it_reads_tombstones(tmp_path: Path):
    store = await make()
    store.learn(StoreTraits(has_create_only=True, list_lag_s=7.0, description="slow to list"))
    clock = FakeClock()
    repository = await open_in(store, tmp_path, clock=clock)
    await (await repository.open_session(points=[])).end()
    assert clock.elapsed == 7.0
    await repository.close()


async def test_strange_names_in_the_store_are_ignored(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    for name in ("index/README", f"index/{one.id}-backup", "packs/README", "points/README", "tombstones/x", "keys/x"):
        await store.create(name, [b"a stranger's"])
    again = await repository.open_session(points=[(VM, "p1")], session_id=one.id)
    disk, _ = await copy_into(again, blocks_of(1, 5))
    await again.commit(point(again.id, [disk], "p1"))
    await again.end()
    assert (await check(repository)).is_clean
    assert repository.problems == {}
    await repository.close()


async def test_faulty_memory_is_found_by_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    repository = await open_in(await make(), tmp_path, paranoid=True)
    one = await repository.open_session(points=[])
    whole = RecordOpener.open

    def flipped(self: RecordOpener, sealer: Any, sealed: memoryview, **rest: Any) -> memoryview:
        sealed[20] ^= 1
        return whole(self, sealer, sealed, **rest)

    monkeypatch.setattr(RecordOpener, "open", flipped)
    with pytest.raises(Damaged):
        await on_thread(lambda: one.store_block(memoryview(b"data" * 100)))
    with pytest.raises(Damaged, match="machine"):
        one.check()
    await one.end()
    await repository.close()


async def test_stopping_ends_the_run_and_a_session_ends_in_any_order(tmp_path: Path):
    repository = await open_in(await make(), tmp_path)
    one = await repository.open_session(points=[])
    async with asyncio.TaskGroup() as group:
        group.create_task(one.run())
        one.stop()
    await one.end()
    await one.end()
    with pytest.raises(RepositoryError, match="ended"):
        await one.flush()
    await repository.close()


async def test_an_index_number_taken_by_a_late_put_is_passed_over(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    await store.create(layout.index_name(one.id, 0), [b"late"])
    disk, _ = await copy_into(one, blocks_of(1, 5))
    await one.commit(point(one.id, [disk], "p1"))
    await one.end()
    assert len(names(store, "index/")) == 2
    await repository.close()


async def test_a_full_cache_folder_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    disk, _ = await copy_into(one, blocks_of(1, 5))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(RepositoryError, match="local index"):
        await one.commit(point(one.id, [disk], "p1"))
    await one.end()
    assert await repository.points() == []
    await repository.close()
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(RepositoryError, match="local index"):
        await open_in(store, tmp_path / "a file")
