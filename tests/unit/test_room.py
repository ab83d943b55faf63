"""A state folder that takes no more is told before a database finds out, whatever it lacks."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mover import room
from mover.catalog.database import open_database
from mover.errors import StateDamaged, StateFull
from tests.support.folders import needs_mounts, run, small


def refusing(number: int) -> Callable[..., None]:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_nothing_is_left_of_the_trial(tmp_path: Path) -> None:
    assert room.trouble_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.EDQUOT, StateFull, "quota"),
        (errno.ENOSPC, StateFull, "inodes"),
        (errno.EROFS, StateDamaged, "kernel's log"),
        (errno.EACCES, StateDamaged, "rights"),
    ],
)
def test_what_the_folder_refuses_is_told_in_words(tmp_path: Path, monkeypatch, number: int, kind: type, hint: str):
    monkeypatch.setattr(tempfile, "TemporaryFile", refusing(number))
    trouble = room.trouble_of(tmp_path)
    assert type(trouble) is kind
    assert os.strerror(number) in trouble.message
    assert hint in trouble.remedy
    with pytest.raises(kind):
        room.require_room(tmp_path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_machine_lacks_for_a_moment_is_no_trouble_of_the_folder(tmp_path: Path, monkeypatch, number: int):
    monkeypatch.setattr(tempfile, "TemporaryFile", refusing(number))
    assert room.trouble_of(tmp_path) is None


def test_a_folder_that_is_gone_is_told_in_words(tmp_path: Path) -> None:
    assert isinstance(room.trouble_of(tmp_path / "gone"), StateDamaged)


class TestReal:
    """File systems of their own."""

    pytestmark = needs_mounts

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Iterator[Path]:
        """Room for bytes, for three files more."""
        with small(tmp_path / "state", "size=64m,nr_inodes=4") as folder:
            yield folder

    def test_without_inodes(self, folder: Path) -> None:
        assert room.trouble_of(folder) is None
        for number in range(3):
            (folder / str(number)).touch()
        assert isinstance(room.trouble_of(folder), StateFull)

    def test_that_became_read_only(self, folder: Path) -> None:
        run("mount", "-o", "remount,ro", folder)
        assert "Read-only file system" in str(room.trouble_of(folder))

    async def test_the_catalog_is_not_made_where_it_has_no_room(self, tmp_path: Path) -> None:
        with small(tmp_path / "tiny", "size=8k") as folder, pytest.raises(StateFull, match="full"):
            await open_database(folder / "catalog.sqlite")
