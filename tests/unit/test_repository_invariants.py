"""The invariants of FORMAT.md section 8, those that exist without the collector, each by name."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mover.errors import MoverError, ObjectExists
from mover.repository import layout
from mover.repository.index import PlaceState
from mover.repository.verify import check
from mover.storage.memory import MemoryStore
from mover.storage.protocol import ObjectInfo
from tests.support.repositories import (
    VM,
    backup,
    blocks_of,
    copy_into,
    copy_of,
    flip,
    make,
    names,
    open_in,
    overwrite,
    point,
    restore,
    two_backups,
)

GOLDEN = Path(__file__).parents[1] / "golden"


class Diary(MemoryStore):
    """Remembers what was there after each change."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[dict[str, Any]] = []
        self.verbs: list[tuple[str, str]] = []

    def _note(self, verb: str, name: str) -> None:
        self.after.append(dict(self._objects))
        self.verbs.append((verb, name))

    async def create(self, name: str, parts: Any) -> None:
        await super().create(name, parts)
        self._note("create", name)

    async def replace(self, name: str, parts: Any) -> None:
        await super().replace(name, parts)
        self._note("replace", name)

    async def delete(self, name: str) -> None:
        await super().delete(name)
        self._note("delete", name)


async def test_invariant_1_manifest_last(tmp_path: Path):
    store = Diary()
    await make(store)
    await two_backups(store, tmp_path)
    for point_id in ("p1", "p2"):
        at = store.verbs.index(("create", layout.point_name(VM, point_id)))
        frozen = MemoryStore()
        frozen._objects = store.after[at]
        repository = await open_in(frozen, tmp_path / point_id)
        report = await check(repository)
        assert report.is_clean
        assert report.unlisted_packs == []
        assert len(await restore(repository, point_id)) == 12
        await repository.close()


async def test_invariant_2_objects_are_immutable_and_names_are_unique(tmp_path: Path):
    store = Diary()
    await make(store)
    await two_backups(store, tmp_path)
    created = [name for verb, name in store.verbs if verb == "create"]
    assert len(created) == len(set(created))
    assert all(name.startswith("sessions/") for verb, name in store.verbs if verb == "replace")
    seen: dict[str, bytes] = {}
    for state in store.after:
        for name, held in state.items():
            if not name.startswith("sessions/"):
                assert seen.setdefault(name, held.data) == held.data


async def test_invariant_3_a_point_outlives_the_deletion_of_its_base(tmp_path: Path):
    store = await make()
    _, second = await two_backups(store, tmp_path)
    repository = await open_in(store, tmp_path / "reader")
    assert [line.id for line in await repository.points()] == ["p2"]
    assert await restore(repository, "p2") == second
    await repository.close()


@pytest.mark.parametrize("passphrase", ["secret", None])
async def test_invariant_4_no_byte_is_accepted_unverified(passphrase: str | None, tmp_path: Path):
    """Flips all over the store: exact bytes or a refusal that names an object, never a wrong byte."""
    store = await make(passphrase=passphrase)
    repository = await open_in(store, tmp_path / "writer", passphrase=passphrase, pack_bytes=12_000)
    blocks = blocks_of(1, 12)
    await backup(repository, blocks, "p1")
    await repository.close()
    dice, refused = random.Random(4), 0
    for name in names(store):
        whole = store._objects[name].data
        places = {*range(0, min(len(whole), 80), 9), *dice.sample(range(len(whole)), min(12, len(whole)))}
        for at in sorted({*places, len(whole) - 1}):
            flip(store, name, at, 1 << dice.randrange(8))
            found, error = await fresh_restore(store, tmp_path, passphrase)
            assert found in (blocks, None)
            if error is not None:
                refused += 1
                needs_name = name.startswith(("packs/", "points/"))
                assert not needs_name or name in error.message or name in str(error.facts)
            overwrite(store, name, whole)
    assert refused > 40


async def fresh_restore(
    store: MemoryStore, tmp_path: Path, passphrase: str | None
) -> tuple[list[bytes] | None, MoverError | None]:
    """What a reader without a cache gets: blocks, or the error that refuses them."""
    folder = tmp_path / "reader"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        repository = await open_in(store, folder, passphrase=passphrase)
    except MoverError as error:
        return None, error
    try:
        return await restore(repository, "p1"), None
    except MoverError as error:
        return None, error
    finally:
        await repository.close()


async def test_invariant_5_any_prefix_of_a_writers_puts_checks_clean(tmp_path: Path):
    store = Diary()
    await make(store)
    begun = len(store.after)
    blocks = await two_backups(store, tmp_path)
    for number in range(begun - 1, len(store.after)):
        state = MemoryStore()
        state._objects = dict(store.after[number])
        repository = await open_in(state, tmp_path / f"after-{number}")
        assert (await check(repository)).problems == []
        for line in await repository.points():
            assert await restore(repository, line.id) == blocks[int(line.id[1]) - 1]
        await backup(repository, blocks[1], "later")
        assert await restore(repository, "later") == blocks[1]
        assert (await check(repository)).problems == []
        await repository.close()


async def test_invariant_6_all_is_found_again_from_the_store_alone(tmp_path: Path):
    """Without cache and without index objects, from the packs' own trailers."""
    store = await make()
    _, second = await two_backups(store, tmp_path)
    for name in names(store, "index/"):
        await store.delete(name)
    repository = await open_in(store, tmp_path / "fresh")
    assert await restore(repository, "p2") == second
    report = await check(repository)
    assert {problem.object for problem in report.problems} <= set(names(store, "packs/"))
    assert all("no index object" in problem.what for problem in report.problems)
    assert report.problems
    made = await repository.rebuild_index()
    assert made == names(store, "index/") != []
    assert await restore(repository, "p2") == second
    report = await check(repository)
    assert report.is_clean
    assert report.unlisted_packs == []
    assert await repository.rebuild_index() == []
    await repository.close()


async def test_each_lost_index_object_is_read_around(tmp_path: Path):
    """Nodes in one, blocks in another: whichever is lost, the packs tell."""
    store = await make()
    repository = await open_in(store, tmp_path / "writer", pack_bytes=12_000)
    blocks = blocks_of(1, 12)
    one = await repository.open_session(points=[(VM, "p1")])
    for block in blocks[:6]:
        one.store_block(memoryview(block))
    await one.flush()
    disk, _ = await copy_into(one, blocks)
    await one.commit(point(one.id, [disk], "p1"))
    await one.end()
    await repository.close()
    assert len(names(store, "index/")) == 2
    for number, name in enumerate(names(store, "index/")):
        poorer = copy_of(store)
        await poorer.delete(name)
        reading = await open_in(poorer, tmp_path / str(number))
        assert await restore(reading, "p1") == blocks
        await reading.close()


async def test_a_point_committed_after_the_reader_opened_is_read(tmp_path: Path):
    store = await make()
    repository, other = await open_in(store, tmp_path / "one"), await open_in(store, tmp_path / "two")
    reader = await repository.open_reader()
    await backup(other, blocks_of(1, 12), "p1")
    block_map = await reader.open_map((await repository.load("p1")).disks[0])
    ids = await block_map.ids(0, 12)
    assert not (reader.locate(ids).state == PlaceState.MISSING).any()
    await reader.end()
    await repository.close()
    await other.close()


async def test_a_damaged_index_object_is_named_read_around_and_replaced(tmp_path: Path):
    store = await make()
    _, second = await two_backups(store, tmp_path)
    broken = names(store, "index/")[0]
    flip(store, broken, 90)
    repository = await open_in(store, tmp_path / "fresh")
    assert await restore(repository, "p2") == second
    assert (await backup(repository, second, "p3")).kinds.count("new") == 0
    report = await check(repository)
    assert [problem.object for problem in report.problems] == [broken]
    await repository.rebuild_index()
    assert broken in names(store), "nothing is deleted"
    assert (await check(repository)).is_clean
    assert await repository.rebuild_index() == []
    assert await restore(repository, "p2") == second
    assert repository.problems == {}
    await repository.close()


async def test_a_damaged_index_object_is_found_and_replaced_where_a_cache_knows_it(tmp_path: Path):
    store = await make()
    _, second = await two_backups(store, tmp_path)
    repository = await open_in(store, tmp_path / "warm")
    assert (await check(repository)).is_clean
    broken = names(store, "index/")[0]
    flip(store, broken, 90)
    assert [problem.object for problem in (await check(repository)).problems] == [broken]
    assert len(await repository.rebuild_index()) == 1
    assert broken in names(store), "nothing is deleted"
    assert (await check(repository)).is_clean
    await repository.close()
    fresh = await open_in(store, tmp_path / "cold")
    assert (await check(fresh)).is_clean
    assert fresh.problems == {}
    assert await restore(fresh, "p2") == second
    await fresh.close()


async def test_a_damaged_index_object_that_a_list_hid_is_no_damage_while_a_whole_one_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The local index merged its segments while it was hidden, and has forgotten that it is replaced."""
    store = await make()
    await two_backups(store, tmp_path)
    broken = names(store, "index/")[0]
    flip(store, broken, 90)
    repository = await open_in(store, tmp_path / "warm")
    await repository.rebuild_index()
    show = store.list

    async def hiding(prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in show(prefix):
            if info.name != broken:
                yield info

    with monkeypatch.context() as patch:
        patch.setattr(store, "list", hiding)
        for number in range(5):
            await backup(repository, blocks_of(number + 10, 5), f"later{number}")
    assert (await check(repository)).is_clean
    assert list(repository.problems) == [broken], "else this shows nothing"
    await repository.close()


async def test_a_stale_cache_is_brought_up_to_date(tmp_path: Path):
    store = await make()
    one, two = await open_in(store, tmp_path / "one"), await open_in(store, tmp_path / "two")
    await backup(one, blocks_of(1, 12), "p1")
    assert "new" not in (await backup(two, blocks_of(1, 12), "p2")).kinds
    await backup(two, blocks_of(2, 12), "p3")
    assert await restore(one, "p3") == blocks_of(2, 12)
    assert (await check(one)).is_clean
    await one.close()
    await two.close()


async def test_a_store_that_refuses_a_second_create_never_meets_one(tmp_path: Path):
    store = await make()
    original = store.create

    async def strict(name: str, parts: Any) -> None:
        if await store.info(name) is not None:
            raise ObjectExists(name, remedy="none")
        await original(name, parts)

    store.create = strict
    repository = await open_in(store, tmp_path)
    one = await repository.open_session(points=[(VM, "p1")])
    disk, _ = await copy_into(one, blocks_of(1, 12))
    made = point(one.id, [disk], "p1")
    await one.commit(made)
    await one.commit(made)
    await one.end()
    await repository.close()
