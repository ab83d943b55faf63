"""The folder store in trouble: a folder that goes, a file system that is full or read-only, what each errno becomes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mover.errors import StorageError, StoreDenied, StoreFull, StoreUnreachable
from mover.storage.local import LocalStore
from mover.storage.problems import store_error
from mover.units import KIB, MIB
from tests.support.folders import files, needs_mounts, run, small


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


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
    assert "mover init" in error.value.remedy


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


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small(tmp_path / "tiny", "size=1m") as folder:
        yield folder


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
