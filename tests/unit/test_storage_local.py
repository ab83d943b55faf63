"""The folder store: what is listed, what is swept, and how its calls end."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from mover.errors import StorageError
from mover.storage import local
from mover.storage.durable import TEMPORARY
from mover.storage.local import LocalStore
from tests.support.folders import files


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


async def test_a_range_beyond_all_memory_is_short_too(store: LocalStore) -> None:
    await store.create("packs/0a/x", [b"x"])
    with pytest.raises(StorageError, match="ends at byte 1"):
        await store.get_range("packs/0a/x", 0, 1 << 60)


async def test_leftovers_of_dead_writers_are_unseen_and_swept_when_old(store: LocalStore) -> None:
    await store.create("packs/0a/x", [b"x"])
    now = (store.path / "packs/0a/x").stat().st_mtime
    for place, age_s in (("packs/0a", 90_000), ("", 90_000), ("packs/0a", 100)):
        left = store.path / place / f"{TEMPORARY}{age_s}"
        left.write_bytes(b"half")
        os.utime(left, (now - age_s, now - age_s))
    assert [info.name async for info in store.list("")] == ["packs/0a/x"]
    assert await store.sweep_stale(now) == 2
    assert files(store.path) == [".swept", f"packs/0a/{TEMPORARY}100", "packs/0a/x"]
    assert await store.sweep_stale(now + 3600) == 0
    assert await store.sweep_stale(now + 90_000) == 1


async def test_a_leftover_that_goes_while_it_is_swept_stops_no_sweep(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Living writers publish and remove theirs all the time."""
    for name in ("a", "b", "c"):
        (store.path / f"{TEMPORARY}{name}").write_bytes(b"half")
        os.utime(store.path / f"{TEMPORARY}{name}", (0, 0))
    look = os.listdir

    def and_gone(place: Any) -> list[str]:
        found = look(place)
        (store.path / f"{TEMPORARY}a").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "listdir", and_gone)
    assert await store.sweep_stale(90_000) == 2


async def test_what_is_no_object_of_ours_is_neither_listed_nor_entered(store: LocalStore) -> None:
    """A file system's own lost+found, which only root may enter, and what people drop beside."""
    await store.create("packs/0a/x", [b"x"])
    for strange in ("lost+found", "packs/my notes", "packs/0a/ä"):
        (store.path / strange).mkdir()
        (store.path / strange / "inner").write_bytes(b"")
    (store.path / "packs/read me.txt").write_bytes(b"")
    assert [info.name async for info in store.list("")] == ["packs/0a/x"]


async def test_large_folders_are_listed_in_pages_and_in_order(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_PAGE", 100)
    for folder in ("packs/00", "packs/00-x", "packs/01"):
        (store.path / folder).mkdir(parents=True)
        for number in range(110):
            (store.path / folder / f"{number:04x}").touch()
    (store.path / "packs/00.y").touch()
    hops = []
    run = store._threads.run

    async def counted(call: Any) -> Any:
        hops.append(call)
        return await run(call)

    monkeypatch.setattr(store._threads, "run", counted)
    names = [info.name async for info in store.list("packs/")]
    assert len(names) == 331
    assert names == sorted(names)
    assert len(hops) == 4  # three full pages and what is left


async def test_a_file_that_goes_while_it_is_listed_is_left_out(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tombstones/a", "tombstones/b"):
        await store.create(name, [b"x"])
    look = store._folder.info

    def and_gone(name: str) -> Any:
        (store.path / "tombstones/a").unlink(missing_ok=True)
        return look(name)

    monkeypatch.setattr(store._folder, "info", and_gone)
    assert [info.name async for info in store.list("tombstones/")] == ["tombstones/b"]


async def test_a_call_cancelled_in_the_queue_is_never_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path, threads=1)
    loop = asyncio.get_running_loop()
    busy, go_on = asyncio.Event(), threading.Event()
    look = store._folder.info

    def slow(name: str) -> Any:
        loop.call_soon_threadsafe(busy.set)
        go_on.wait(10)
        return look(name)

    monkeypatch.setattr(store._folder, "info", slow)
    async with asyncio.TaskGroup() as group:
        group.create_task(store.info("a"))
        await busy.wait()
        second = group.create_task(store.create("b", [b"x"]))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        go_on.set()
    await store.close()
    assert files(tmp_path) == []


async def test_close_lets_the_folder_go(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    store = LocalStore(tmp_path)
    await store.create("a", [b"x"])
    await store.close()
    with (tmp_path / "another").open("wb") as other:
        await store.close()
        other.write(b"the number of our descriptor is his now")
    assert set(os.listdir("/proc/self/fd")) <= before
