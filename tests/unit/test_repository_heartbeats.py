"""Who holds a repository says so at intervals, and stops when a collector has taken it for dead."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.errors import MoverError, SessionVoided, StoreDenied, StoreFull
from mover.repository import layout
from mover.repository.hold import Hold
from mover.repository.manifest import seal_void
from mover.repository.repository import Repository
from mover.storage.memory import MemoryStore
from tests.support.repositories import VM, backup, blocks_of, copy_into, make, names, open_in, point, restore, until


async def void(repository: Repository, store: MemoryStore, session_id: str, point_id: str) -> None:
    """What a collector does to a session that it takes for dead."""
    name = layout.point_name(VM, point_id)
    parts = seal_void(repository._tools.secrets, name, session_id=session_id, at=1.0, by="collector")
    await store.create(name, parts)
    await store.delete(layout.session_name(session_id))


async def test_a_voided_session_cannot_commit_beat_or_resume(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    disk, _ = await copy_into(one, blocks_of(1, 5))
    await void(repository, store, one.id, "p1")
    with pytest.raises(SessionVoided):
        await one.commit(point(one.id, [disk], "p1"))
    with pytest.raises(SessionVoided):
        await one._hold.beat()
    with pytest.raises(SessionVoided):
        await repository.open_session(points=[(VM, "p1")], session_id=one.id)
    assert await repository.points() == []
    await one.end()
    await repository.close()


async def test_heartbeats_are_written_and_a_voided_session_stops(tmp_path: Path):
    store = await make()
    clock = FakeClock()
    repository = await open_in(store, tmp_path, clock=clock, heartbeat_s=30.0)
    one = await repository.open_session(points=[(VM, "p1")])

    async def is_voided() -> None:
        with pytest.raises(SessionVoided):
            await one.run()

    async with asyncio.TaskGroup() as group:
        group.create_task(is_voided())
        await until(lambda: clock.elapsed > 100)
        assert (await repository.leftovers())[0].beat >= 3
        await store.delete(layout.session_name(one.id))
    assert names(store, "sessions/") == []
    await repository.close()


async def test_a_reader_beats_too(tmp_path: Path):
    store = await make()
    clock = FakeClock()
    repository = await open_in(store, tmp_path, clock=clock, heartbeat_s=30.0)
    reader = await repository.open_reader()
    async with asyncio.TaskGroup() as group:
        group.create_task(reader.run())
        await until(lambda: clock.elapsed > 100)
        assert (await repository.leftovers())[0].beat >= 3
        await reader.end()
    assert await repository.leftovers() == []
    await repository.close()


@pytest.mark.parametrize("refusal", [StoreDenied, StoreFull])
async def test_a_store_that_takes_no_more_is_read(
    refusal: type[MoverError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store, clock = await make(), FakeClock()
    repository = await open_in(store, tmp_path, clock=clock, heartbeat_s=30.0)
    await backup(repository, blocks_of(1, 5), "p1")
    reader = await repository.open_reader()

    async def refuse(*_: object) -> None:
        raise refusal("no more", remedy="none")

    monkeypatch.setattr(store, "create", refuse)
    monkeypatch.setattr(store, "replace", refuse)
    begun = clock.elapsed
    async with asyncio.TaskGroup() as group:
        group.create_task(reader.run())
        await until(lambda: clock.elapsed > begun + 100)
        assert await restore(repository, "p1") == blocks_of(1, 5)
        reader.stop()
    await repository.close()


async def test_a_reader_that_a_collector_took_for_dead_stops(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path, clock=FakeClock(), heartbeat_s=30.0)
    reader = await repository.open_reader()
    for name in names(store, "sessions/"):
        await store.delete(name)
    with pytest.raises(SessionVoided):
        await reader.run()
    await repository.close()


async def test_a_hold_is_rewritten_only_while_it_stands(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    secrets, clock = repository._tools.secrets, FakeClock()
    hold = await Hold.create(store, secrets, clock, "writer", [(VM, "p")])
    first = store._objects[hold.name].data
    await hold.beat()
    assert store._objects[hold.name].data != first
    again = await Hold.resume(store, secrets, clock, hold.record.id)
    assert again is not None
    assert (again.record.beat, again.record.points) == (2, ((VM, "p"),))
    await hold.end()
    assert await Hold.resume(store, secrets, clock, hold.record.id) is None
    await repository.close()
