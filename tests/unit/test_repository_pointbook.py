"""The book of points beside a whole repository: it sees the same, as soon, and lets nobody in whom that one refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mover.clock import FakeClock
from mover.errors import Damaged, NoSuchPoint, PointPinned, RepositoryError, WrongKey
from mover.model.machine import Consistency
from mover.model.point import PointSummary, ReadMode
from mover.repository import layout
from mover.repository.keys import Descriptor, Secrets, decode_descriptor
from mover.repository.layout import Cipher
from mover.repository.pointbook import PointBook
from mover.repository.points import Lines
from mover.repository.repository import Repository
from mover.storage.memory import MemoryStore
from mover.storage.protocol import ObjectInfo, Store
from tests.support.faultystore import FaultyStore
from tests.support.repositories import PASSPHRASE, VM, backup, blocks_of, flip, make, open_in, overwrite


async def book_of(store: Store, folder: Path, passphrase: str | None = PASSPHRASE) -> PointBook:
    return await PointBook.open(store, passphrase=passphrase, cache_dir=folder)


async def test_it_sees_at_once_what_a_repository_commits_damages_and_deletes(tmp_path: Path):
    store = await make()
    book, repository = await book_of(store, tmp_path / "book"), await open_in(store, tmp_path / "whole")
    assert await book.points() == []
    for name in ("p1", "p2", "p3"):
        await backup(repository, blocks_of(1, 2), name)
        assert [point.id for point in await book.points()][-1] == name
        assert await book.load(name) == await repository.load(name)
    flip(store, layout.point_name(VM, "p2"), 100)
    await repository.delete_point("p1")
    assert await book.points() == await repository.points()
    assert {(point.id, bool(point.problem)) for point in await book.points()} == {("p2", True), ("p3", False)}
    with pytest.raises(NoSuchPoint):
        await book.load("p1")
    await repository.close()


async def test_a_point_is_found_by_its_full_id_without_a_look_into_others(tmp_path: Path):
    """A job loads its base so; there may be tens of thousands."""
    store = FaultyStore(await make())
    book, repository = await book_of(store, tmp_path / "book"), await open_in(store, tmp_path / "whole")
    for name in ("p1", "p2", "p11"):
        await backup(repository, blocks_of(1, 2), name)
    store.calls.clear()
    assert (await book.find_point("p1")).id == "p1"
    assert [call.split()[-1] for call in store.calls if "get" in call] == [layout.point_name(VM, "p1")]
    assert (await book.find_point("p11")).id == "p11"
    assert (await book.find_point("p2")).id == "p2"
    with pytest.raises(NoSuchPoint):
        await book.find_point("q")
    await repository.close()


async def test_a_repository_that_stays_open_reads_a_manifests_head_once_in_six_hours(tmp_path: Path):
    """And sees at once what is new or gone; what could not be read is tried again."""
    clock, store = FakeClock(), FaultyStore(await make())
    repository = await Repository.open(store, passphrase=PASSPHRASE, cache_dir=tmp_path, clock=clock)
    for name in ("p1", "p2", "p3"):
        await backup(repository, blocks_of(1, 2), name)
    flip(store.inner, layout.point_name(VM, "p2"), 100)

    async def looked() -> tuple[list[str], list[str]]:
        store.calls.clear()
        points = await repository.points()
        return sorted(point.id for point in points), sorted({call[-2:] for call in store.calls if "get" in call})

    assert await looked() == (["p1", "p2", "p3"], ["p1", "p2", "p3"])
    assert await looked() == (["p1", "p2", "p3"], ["p2"])
    await backup(repository, blocks_of(1, 2), "p4")
    await repository.delete_point("p1")
    assert await looked() == (["p2", "p3", "p4"], ["p2"])
    clock.elapsed += 6 * 3600.0
    assert await looked() == (["p2", "p3", "p4"], ["p2", "p3", "p4"])
    await repository.close()


async def test_what_is_loaded_and_damaged_is_listed_so_the_next_time(tmp_path: Path):
    store = await make()
    repository = await open_in(store, tmp_path)
    await backup(repository, blocks_of(1, 2), "p1")
    assert [point.problem for point in await repository.points()] == [None]
    flip(store, layout.point_name(VM, "p1"), 100)
    (line,) = await repository.points()
    with pytest.raises(Damaged):
        await repository.load(line)
    assert [point.problem is None for point in await repository.points()] == [False]
    await repository.close()


async def test_few_lines_are_remembered_and_none_of_what_is_gone():
    infos = [ObjectInfo(f"points/{vm}/{number}", 10, 1.0) for vm in ("a", "b") for number in range(3)]
    line = PointSummary("", "", "", 0.0, 0.0, 0, 0, 0, ReadMode.FULL, Consistency.CRASH, False, 0)
    lines = Lines(FakeClock(), 100.0, most=4)
    lines.learn(dict.fromkeys(infos[:3], line), prefix="points/a/", there=infos[:3])
    lines.learn(dict.fromkeys(infos[3:], line), prefix="points/b/", there=infos[3:])
    assert list(lines.known(infos)) == infos[:4]
    lines.learn({infos[5]: line}, prefix="points/", there=[*infos[1:3], infos[5]])
    assert list(lines.known(infos)) == [*infos[1:3], infos[5]]


async def test_what_it_deletes_is_gone_and_a_base_is_kept(tmp_path: Path):
    store = await make()
    book, repository = await book_of(store, tmp_path / "book"), await open_in(store, tmp_path / "whole")
    await backup(repository, blocks_of(1, 2), "p1", is_base=True)
    with pytest.raises(PointPinned):
        await book.delete_point("p1")
    assert [point.id for point in await repository.points()] == ["p1"]
    await book.delete_point("p1", force=True)
    assert await repository.points() == []
    await repository.close()


def downgrade(store: MemoryStore) -> None:
    repository_id = decode_descriptor(store._objects[layout.DESCRIPTOR].data).repository_id
    forged = Descriptor(repository_id, Cipher.NONE, "2026-01-01T00:00:00Z")
    overwrite(store, layout.DESCRIPTOR, forged.encode(Secrets.without_encryption(repository_id)))


async def test_what_it_has_seen_encrypted_is_refused_open_by_it_and_by_a_repository(tmp_path: Path):
    store = await make()
    await book_of(store, tmp_path)
    downgrade(store)
    with pytest.raises(WrongKey, match="has seen it encrypted"):
        await book_of(store, tmp_path, None)
    with pytest.raises(WrongKey, match="has seen it encrypted"):
        await open_in(store, tmp_path, passphrase=None)


def files_below(folder: Path) -> list[str]:
    return [file.name for file in folder.rglob("*") if file.is_file()]


async def test_that_a_repository_was_encrypted_is_noted_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    """Half a note is none, and a downgrade would be believed."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = await make()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RepositoryError, match="No space left"):
            await book_of(store, tmp_path)
    assert files_below(tmp_path) == []
    await book_of(store, tmp_path)
    assert files_below(tmp_path) == ["known.json"]
