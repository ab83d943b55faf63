"""The folder store: what makes a put durable, and what each fault of a file system becomes."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mover.errors import ObjectExists, StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.storage import durable, local
from mover.storage.durable import TEMPORARY, Publish
from mover.storage.local import LocalStore
from mover.storage.problems import store_error
from mover.units import KIB, MIB

needs_mounts = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def files(folder: Path) -> list[str]:
    """Every file below, temporaries included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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


async def test_a_range_beyond_all_memory_is_short_too(store: LocalStore) -> None:
    await store.create("packs/0a/x", [b"x"])
    with pytest.raises(StorageError, match="ends at byte 1"):
        await store.get_range("packs/0a/x", 0, 1 << 60)


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


async def test_a_folder_that_vanishes_is_unreachable_never_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    store = LocalStore(folder)
    await store.create("packs/0a/x", [b"x"])
    shutil.rmtree(folder)
    for call in (
        store.create("packs/0a/y", [b"y"]),
        store.get("packs/0a/x"),
        store.info("packs/0a/x"),
        store.delete("packs/0a/x"),
    ):
        with pytest.raises(StoreUnreachable, match=str(folder)) as error:
            await call
        assert error.value.retryable
    with pytest.raises(StoreUnreachable):
        _ = [info async for info in store.list("")]
    assert not folder.exists()


async def test_a_subfolder_that_vanishes_is_made_again(store: LocalStore) -> None:
    await store.create("packs/0a/x", [b"x"])
    shutil.rmtree(store.path / "packs")
    await store.create("packs/0a/x", [b"y"])
    assert await store.get("packs/0a/x") == b"y"


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b"a file")], ids=["none", "file"])
def test_a_missing_folder_is_told_at_once(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "there")
    with pytest.raises(StoreUnreachable, match="does not exist") as error:
        LocalStore(tmp_path / "there")
    assert not error.value.retryable
    assert str(tmp_path / "there") in error.value.remedy


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.ENOSPC, StoreFull, "Make room"),
        (errno.EDQUOT, StoreFull, "quota"),
        (errno.EROFS, StoreDenied, "read-write"),
        (errno.EACCES, StoreDenied, "right"),
        (errno.EPERM, StoreDenied, "right"),
        (errno.ESTALE, StoreUnreachable, "mounted"),
        (errno.ENOENT, StoreUnreachable, "mounted"),
        (errno.ENOTCONN, StoreUnreachable, "mounted"),
        (errno.EIO, StoreUnreachable, "dmesg"),
        (errno.ETIMEDOUT, StoreUnreachable, "file server"),
        (errno.EFBIG, StorageError, "file system"),
    ],
)
def test_each_errno_has_its_error_and_remedy(number: int, kind: type[StorageError], hint: str) -> None:
    error = store_error(OSError(number, "?"), folder=Path("/backup"), doing="writing packs/0a/x")
    assert type(error) is kind
    assert hint in error.remedy
    assert "/backup" in error.message
    assert os.strerror(number) in error.message
    assert error.facts["errno"] == errno.errorcode[number]


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
    assert len(hops) == 4 + 6  # four folders, two pages in each of three


async def test_a_file_that_goes_while_it_is_listed_is_left_out(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tombstones/a", "tombstones/b"):
        await store.create(name, [b"x"])
    entries = store._folder.entries

    def and_gone(folder: str, prefix: str) -> list[str]:
        found = entries(folder, prefix)
        (store.path / "tombstones/a").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(store._folder, "entries", and_gone)
    assert [info.name async for info in store.list("tombstones/")] == ["tombstones/b"]


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
    task = loop.create_task(store.create("points/p", [b"x"]))
    await writing.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await store.info("points/p") is None
    assert files(store.path) == []


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
    first = loop.create_task(store.info("a"))
    await busy.wait()
    second = loop.create_task(store.create("b", [b"x"]))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    go_on.set()
    await first
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


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    try:
        yield folder
    finally:
        if folder.is_mount():
            run("umount", "-l", folder)


class TestTiny:
    """A real file system, full or read-only."""

    pytestmark = needs_mounts

    async def test_full_means_full_and_leaves_what_was_there(self, tiny: Path) -> None:
        store = LocalStore(tiny)
        await store.create("packs/0a/first", [bytes(256 * KIB)])
        for call in (store.create("packs/0a/big", [bytes(MIB)]), store.replace("packs/0a/first", [bytes(MIB)])):
            with pytest.raises(StoreFull, match="No space left") as error:
                await call
            assert str(tiny) in error.value.remedy
            assert not error.value.retryable
        assert files(tiny) == ["packs/0a/first"]
        assert await store.get("packs/0a/first") == bytes(256 * KIB)
        room = await store.free_bytes()
        assert room is not None
        assert 512 * KIB < room <= 768 * KIB
        await store.create("packs/0a/fits", [bytes(256 * KIB)])
        await store.close()

    async def test_read_only_can_be_read_and_says_why_not_written(self, tiny: Path) -> None:
        writer = LocalStore(tiny)
        await writer.create("points/p", [b"manifest"])
        await writer.close()
        run("mount", "-o", "remount,ro", tiny)
        store = LocalStore(tiny)
        for call in (store.create("points/q", [b"x"]), store.replace("s", [b"x"]), store.delete("points/p")):
            with pytest.raises(StoreDenied, match="Read-only") as error:
                await call
            assert "read-write" in error.value.remedy
        assert await store.sweep_stale(2e9) == 0
        assert await store.get("points/p") == b"manifest"
        await store.close()

    async def test_an_unmounted_folder_is_not_replaced_by_its_mount_point(self, tiny: Path) -> None:
        store = LocalStore(tiny)
        run("umount", "-l", tiny)
        await store.create("packs/0a/x", [b"x"])
        assert files(tiny) == []
        assert await store.get("packs/0a/x") == b"x"
        await store.close()
