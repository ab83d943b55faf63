"""Repair: a damaged pack is marked, met blocks are stored again, old points come back; nothing is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mover.errors import Damaged, StoreUnreachable
from mover.repository import layout
from mover.repository.suspects import list_suspects, seal_suspect
from mover.repository.verify import check
from mover.storage.memory import MemoryStore
from tests.support.repositories import (
    VM,
    backup,
    blocks_of,
    copy_of,
    flip,
    make,
    names,
    open_in,
    overwrite,
    restore,
)


async def backed_up(tmp_path: Path, *, tag: str = "writer") -> tuple[MemoryStore, Any, list[bytes]]:
    """A repository with one point over several packs."""
    store = await make()
    repository = await open_in(store, tmp_path / tag, pack_bytes=12_000)
    blocks = blocks_of(1, 30)
    await backup(repository, blocks, "p1", created_at=1.0)
    assert len(names(store, "packs/")) > 4
    return store, repository, blocks


def harmed(store: MemoryStore, pack: str, how: str) -> None:
    size = len(store._objects[pack].data)
    if how == "missing":
        del store._objects[pack]
    elif how == "cut":
        overwrite(store, pack, store._objects[pack].data[: size // 2])
    else:
        flip(store, pack, {"record": 100, "header": 20, "table": size - 60, "footer": size - 3}[how])


HOWS = ["record", "header", "table", "footer", "cut", "missing"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("which", [0, -1])
async def test_a_damaged_pack_is_marked_and_the_next_full_heals_the_old_point(tmp_path: Path, how: str, which: int):
    store, repository, blocks = await backed_up(tmp_path)
    pack = names(store, "packs/")[which]
    harmed(store, pack, how)
    before = set(names(store))
    found = await repository.repair(read_data=True)
    assert list(found.damaged) == found.marked == [pack]
    assert pack in found.damaged[pack]
    assert [(one.point_id, one.disks) for one in found.leaning] == [("p1", ("scsi.0",))]
    assert before <= set(names(store)), "nothing is deleted"
    assert set(names(store)) - before == {layout.suspect_name(layout.pack_id_of(pack) or b"")}

    made = await backup(repository, blocks, "p2", created_at=2.0)
    assert "new" in made.kinds
    assert "known" in made.kinds
    for point_id in ("p1", "p2"):
        assert await restore(repository, point_id) == blocks
    assert (await check(repository)).is_clean
    again = await repository.repair(read_data=True)
    assert (list(again.damaged), again.marked, again.leaning) == ([pack], [], [])
    await repository.close()
    fresh = await open_in(store, tmp_path / "fresh")
    assert await restore(fresh, "p1") == blocks
    assert (await backup(fresh, blocks, "p3", created_at=3.0)).kinds.count("new") == 0
    await fresh.close()


async def test_without_data_what_headers_tables_and_lengths_tell_is_found(tmp_path: Path):
    for how in HOWS:
        store, repository, _ = await backed_up(tmp_path, tag=how)
        harmed(store, names(store, "packs/")[1], how)
        found = await repository.repair()
        assert bool(found.damaged) == (how != "record"), how
        assert found.bytes_read == 0
        await repository.close()


async def test_a_sound_repository_is_left_as_it_is(tmp_path: Path):
    store, repository, _ = await backed_up(tmp_path)
    before = dict(store._objects)
    planned, advanced = list[int](), list[int]()
    found = await repository.repair(read_data=True, plan=planned.append, advance=advanced.append)
    assert (found.damaged, found.marked, found.index_objects, found.leaning) == ({}, [], [], [])
    assert found.packs == len(names(store, "packs/"))
    assert sum(advanced) == found.bytes_read > 0
    assert 0 <= planned[0] - sum(advanced) < found.packs * 2000, "headers and tables apart"
    assert store._objects == before
    await repository.close()


@pytest.mark.parametrize("at_of_record", range(0, 30, 7))
async def test_every_record_of_a_pack_is_opened(tmp_path: Path, at_of_record: int):
    store = await make()
    repository = await open_in(store, tmp_path, pack_bytes=1 << 20)
    await backup(repository, blocks_of(1, 30, zero_every=100), "p1")
    (pack,) = names(store, "packs/")
    pack_id = layout.pack_id_of(pack)
    assert pack_id is not None
    table = (await repository.pack_contents(pack_id, len(store._objects[pack].data))).table
    row = table[at_of_record]
    flip(store, pack, int(row["offset"] + row["stored"]) - 1)
    assert list((await repository.repair(read_data=True)).damaged) == [pack]
    await repository.close()


async def test_of_one_point_only_its_packs_are_looked_at(tmp_path: Path):
    store, repository, _ = await backed_up(tmp_path)
    mine = set(names(store, "packs/"))
    await backup(repository, blocks_of(2, 30), "p2", created_at=2.0)
    others = [pack for pack in names(store, "packs/") if pack not in mine]
    flip(store, others[0], 20)
    first = await repository.repair(await repository.load("p1"))
    assert (first.packs, first.damaged) == (len(mine), {})
    second = await repository.repair(await repository.load("p2"))
    assert list(second.damaged) == [others[0]]
    assert [one.point_id for one in second.leaning] == ["p2"]
    await repository.close()


async def test_an_incremental_over_a_damaged_base_is_known_to_lean_on_it(tmp_path: Path):
    store, repository, blocks = await backed_up(tmp_path)
    base = (await repository.load("p1")).disks[0]
    whole = await repository.open_session(points=[(VM, "px")])
    assert not await whole.leans_on_suspects(base)
    await whole.end()
    for pack in names(store, "packs/"):
        copy = copy_of(store)
        harmed(copy, pack, "record")
        reading = await open_in(copy, tmp_path / pack[-8:])
        await reading.repair(read_data=True)
        session = await reading.open_session(points=[(VM, "px")])
        assert await session.leans_on_suspects(base), "each pack holds a block or a node of it"
        await session.end()
        await backup(reading, blocks, "p2", created_at=2.0)
        healed = await reading.open_session(points=[(VM, "py")])
        assert not await healed.leans_on_suspects(base)
        await healed.end()
        await reading.close()
    await repository.close()


async def test_lost_index_objects_are_written_anew(tmp_path: Path):
    store, repository, blocks = await backed_up(tmp_path)
    await repository.close()
    lost = names(store, "index/")
    for name in lost:
        await store.delete(name)
    fresh = await open_in(store, tmp_path / "fresh")
    found = await fresh.repair()
    assert found.index_objects == names(store, "index/") != lost
    assert (found.damaged, found.leaning) == ({}, [])
    assert (await check(fresh)).is_clean
    assert "new" not in (await backup(fresh, blocks, "p2", created_at=2.0)).kinds
    await fresh.close()


async def test_unreadable_manifests_are_named(tmp_path: Path):
    store, repository, _ = await backed_up(tmp_path)
    (name,) = names(store, "points/")
    flip(store, name, -5)
    assert (await repository.repair()).unreadable_points == [name]
    await repository.close()


async def test_a_store_that_fails_is_no_damage(tmp_path: Path):
    store, repository, _ = await backed_up(tmp_path)

    async def away(*_: object) -> bytes:
        raise StoreUnreachable("gone", remedy="Plug it in.")

    store.get_range = away
    with pytest.raises(StoreUnreachable):
        await repository.repair()
    assert await list_suspects(store) == frozenset()


async def test_what_is_whole_in_a_suspect_pack_still_serves(tmp_path: Path):
    """Marked for nothing: every point still restores, and check finds nothing."""
    store, repository, blocks = await backed_up(tmp_path)
    for pack in names(store, "packs/"):
        pack_id = layout.pack_id_of(pack)
        assert pack_id is not None
        assert await repository.mark_suspect(pack_id, "a guess")
        assert not await repository.mark_suspect(pack_id, "another")
    assert await restore(repository, "p1") == blocks
    assert (await check(repository)).is_clean
    await repository.close()


async def test_a_suspects_own_bytes_are_sealed_and_strangers_below_its_folder_ignored(tmp_path: Path):
    store, repository, _ = await backed_up(tmp_path)
    await store.create("suspects/notes.txt", [b"hello"])
    assert await list_suspects(store) == frozenset()
    sealed = b"".join(seal_suspect(repository._secrets, bytes(32), at="2026-01-01T00:00:00Z", why="a reason"))
    assert b"reason" not in sealed
    await store.create(layout.suspect_name(bytes(32)), [sealed])
    assert await list_suspects(store) == {bytes(32)}
    await repository.close()


async def test_a_damaged_pack_that_no_point_needs_any_more_is_no_problem_once_marked(tmp_path: Path):
    store, repository, _ = await backed_up(tmp_path)
    pack = names(store, "packs/")[0]
    flip(store, pack, 20)
    assert [problem.object for problem in (await check(repository)).problems] == [pack]
    await repository.repair()
    assert [problem.object for problem in (await check(repository)).problems] == [pack], "p1 needs it"
    await repository.delete_point("p1")
    assert (await check(repository)).is_clean
    with pytest.raises(Damaged):
        await repository.pack_contents(layout.pack_id_of(pack) or b"", len(store._objects[pack].data))
    await repository.close()
