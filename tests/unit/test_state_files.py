"""The files of the state folder when they are not what was written: said in words, and the way on works."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from mover.catalog.ledger import Kind, Ledger
from mover.clock import FakeClock
from mover.errors import ConfigError, StateDamaged
from mover.jobs.book import DATABASE_NAME, JobBook, prepare_database


def harmed(path: Path, how: str) -> None:
    whole = path.read_bytes()
    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    harms = {
        "garbage": random.Random(1).randbytes(9000),
        "cut": whole[: len(whole) // 2],
        "page": whole[:4096] + b"\x55" * 4096 + whole[8192:],
    }
    path.write_bytes(harms[how])


def settled(path: Path) -> None:
    """All of it in the one file."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


@pytest.mark.parametrize("how", ["garbage", "cut", "page"])
async def test_a_damaged_catalog_is_told_and_one_can_go_on_without(tmp_path: Path, how: str):
    path, clock = tmp_path / "catalog.sqlite", FakeClock()
    ledger = await Ledger.open(path, clock=clock)
    for number in range(40):
        await ledger.intend(Kind.SNAPSHOT, job=f"{number:016x}", ordinal=0, facts={"name": "x" * 300})
    await ledger.close()
    settled(path)
    harmed(path, how)
    with pytest.raises(StateDamaged) as caught:
        await Ledger.open(path, clock=clock)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert all(words in caught.value.remedy for words in (f"mv {path}", "mover orphans", "ledger", "Restore points"))
    path.rename(tmp_path / "catalog.sqlite.damaged")
    fresh = await Ledger.open(path, clock=clock)
    assert await fresh.open_entries() == []
    await fresh.close()


async def test_a_catalog_that_cannot_be_opened_is_no_damage(tmp_path: Path):
    (tmp_path / "catalog.sqlite").mkdir()
    with pytest.raises(StateDamaged, match="cannot be used") as caught:
        await Ledger.open(tmp_path / "catalog.sqlite", clock=FakeClock())
    assert "mv " not in caught.value.remedy


@pytest.mark.parametrize("how", ["garbage", "cut", "page"])
def test_a_damaged_book_of_jobs_is_told_and_one_can_go_on_without(tmp_path: Path, how: str):
    path = prepare_database(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE held (text)")
    connection.executemany("INSERT INTO held VALUES (?)", [("x" * 300,)] * 100)
    connection.commit()
    connection.close()
    settled(path)
    harmed(path, how)
    with pytest.raises(StateDamaged) as caught:
        prepare_database(tmp_path, is_executor=True)
    assert str(path) in caught.value.message
    assert all(words in caught.value.remedy for words in (f"mv {path}", "mover orphans --apply", "history"))
    path.rename(tmp_path / "jobs.sqlite.damaged")
    assert prepare_database(tmp_path, is_executor=True) == path


async def test_damage_that_a_question_meets_later_is_told_too(tmp_path: Path):
    """A client looks at the file's beginning only."""
    book = JobBook(tmp_path, clock=FakeClock())
    for _ in range(20):
        await book.submit("backup", {"words": "x" * 3000})
    await book.close()
    path = tmp_path / DATABASE_NAME
    settled(path)
    with sqlite3.connect(path) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'workflow_status'").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\x55" * 4096)
    client = JobBook(tmp_path, clock=FakeClock())
    with pytest.raises(StateDamaged, match=DATABASE_NAME):
        await client.jobs()
    await client.close()


def test_a_state_folder_that_cannot_be_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be used"):
            prepare_database(folder)
