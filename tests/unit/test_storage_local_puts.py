"""The folder store's puts: what makes them durable, and how a name is published once."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from mover.errors import ObjectExists, StoreFull, StoreUnreachable
from mover.storage import durable
from mover.storage.durable import TEMPORARY, Publish
from mover.storage.local import LocalStore
from tests.support.folders import files


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


class Calls:
    """Records calls of ``os`` with the folder or file that they concern."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.made: list[str] = []
        self._root = root
        for name in ("writev", "fdatasync", "fsync", "link", "mkdir", "unlink"):
            patch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name: str, call: Any) -> Any:
        def record(target: Any, *args: Any, **kwargs: Any) -> Any:
            path = args[0] if name == "link" else target
            if isinstance(path, int):
                path = Path(os.readlink(f"/proc/self/fd/{path}")).relative_to(self._root)
            self.made.append(f"{name} {'temporary' if TEMPORARY in str(path) else path}")
            return call(target, *args, **kwargs)

        return record


async def test_a_put_syncs_file_then_name_then_folder(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.create("packs/0a/first", [b"x"])
    calls = Calls(monkeypatch, store.path)
    await store.create("packs/0a/second", [b"x", b"y"])
    assert calls.made == [
        "writev temporary",
        "fdatasync temporary",
        "link packs/0a/second",
        "unlink temporary",
        "fsync packs/0a",
    ]


async def test_new_folders_are_durable_before_what_is_in_them(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, store.path)
    await store.create("points/vm/p1", [b"x"])
    assert calls.made[:6] == [
        "mkdir points",
        "fsync .",
        "mkdir points/vm",
        "fsync points",
        "writev temporary",
        "fdatasync temporary",
    ]
    assert calls.made[-1] == "fsync points/vm"


async def test_a_folder_made_by_a_stranger_is_synced_once(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.path / "index").mkdir()
    calls = Calls(monkeypatch, store.path)
    await store.create("index/1", [b"x"])
    assert calls.made[:2] == ["mkdir index", "fsync ."]
    calls.made.clear()
    await store.create("index/2", [b"x"])
    assert "fsync ." not in calls.made


async def test_a_folder_that_another_writer_has_just_made_is_synced_with_all_above_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He may be killed between his mkdir and his fsync: our put must not go down with his folder."""
    (store.path / "packs").mkdir()
    calls = Calls(monkeypatch, store.path)
    await store.create("packs/0a/x", [b"x"])
    assert calls.made[:4] == ["mkdir packs", "fsync .", "mkdir packs/0a", "fsync packs"]
    calls.made.clear()
    await store.create("packs/0b/y", [b"y"])
    assert calls.made[:3] == ["mkdir packs/0b", "fsync packs", "writev temporary"]


async def test_deletes_and_heartbeats_are_durable_too(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.replace("sessions/s", [b"1"])
    calls = Calls(monkeypatch, store.path)
    await store.replace("sessions/s", [b"2"])
    await store.delete("sessions/s")
    assert [call for call in calls.made if call.startswith("f")] == [
        "fdatasync temporary",
        "fsync sessions",
        "fsync sessions",
    ]


async def test_short_writes_are_continued(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "writev", lambda fd, parts: write(fd, parts[0][: max(1, parts[0].nbytes // 2)]))
    await store.create("packs/0a/slow", [b"0123456789", b"", b"abc"])
    assert await store.get("packs/0a/slow") == b"0123456789abc"


async def test_a_failed_write_leaves_no_file(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(StoreFull, match="writing packs/0a/x"):
        await store.create("packs/0a/x", [b"data"])
    with pytest.raises(StoreFull):
        await store.replace("packs/0a/x", [b"data"])
    assert files(store.path) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
async def test_without_hard_links_a_rename_that_replaces_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", no_links)
    await store.create("points/p", [b"mine"])
    with pytest.raises(ObjectExists):
        await store.create("points/p", [b"other"])
    assert await store.get("points/p") == b"mine"
    assert files(store.path) == ["points/p"]
    assert store.traits.has_create_only


async def test_without_either_it_looks_first_and_says_so(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(durable, "_rename_noreplace", refused)
    await store.create("points/p", [b"mine"])
    with pytest.raises(ObjectExists):
        await store.create("points/p", [b"other"])
    assert await store.get("points/p") == b"mine"
    assert files(store.path) == ["points/p"]
    assert not store.traits.has_create_only


async def test_a_file_system_that_cannot_sync_folders_is_taken_as_it_is(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(number: int) -> Any:
        def fsync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    await store.create("points/p", [b"x"])
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StoreUnreachable):
        await store.create("points/q", [b"x"])


def test_rename_noreplace_is_the_kernels_own(tmp_path: Path) -> None:
    root_fd = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    with pytest.raises(FileExistsError):
        durable.publish("a", "b", Publish.RENAME_NOREPLACE, root_fd=root_fd)
    assert durable.publish("a", "c", Publish.RENAME_NOREPLACE, root_fd=root_fd) is Publish.RENAME_NOREPLACE
    os.close(root_fd)
    assert files(tmp_path) == ["b", "c"]


def test_the_stores_own_folder_is_made_where_folders_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "fsync", refused)
    durable.make_root(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()


async def test_a_create_cancelled_while_it_writes_never_appears(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    writing, go_on = asyncio.Event(), threading.Event()
    sync = os.fdatasync

    def slow(descriptor: int) -> None:
        loop.call_soon_threadsafe(writing.set)
        go_on.wait(10)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(store.create("points/p", [b"x"]))
        await writing.wait()
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
    assert task.cancelled()
    assert await store.info("points/p") is None
    assert files(store.path) == []
