"""The catalog's file: SQLite through SQLAlchemy Core, opened with its pragmas and version.

Everything in it can be rebuilt or done without: restore points live in the repository.
Only ``catalog/`` writes SQL; extents and block maps never come here.
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mover.errors import ConfigError, StateDamaged, StateFull
from mover.room import driver_error, unusable

SCHEMA_VERSION = 1
METADATA = sql.MetaData()

# One connection: SQLite has one writer, and a read-then-write is atomic without a lock.
_CONNECTIONS = 1
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    # A ledger that loses its last commit in a power cut forgets what it owes.
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=30000",
)
_LOST = (
    "mover orphans. Lost is the ledger of what we made on clusters: orphans then lists by name, for you to decide, "
    "the snapshots of ours that no restore point needs as a base, and the clones of them on the Proxy VM. Restore "
    "points do not depend on it."
)


async def open_database(path: Path) -> AsyncEngine:
    """Open or create the file. Raises ConfigError when a newer version wrote it, StateDamaged when it is unusable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1, "catalog") as thread:
        # Before the engine: a connection of its that fails leaves a thread that outlives the loop.
        await asyncio.get_running_loop().run_in_executor(thread, _check, path)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=_CONNECTIONS, max_overflow=0)
    event.listen(engine.sync_engine, "connect", _prepare)
    try:
        found = await _make_tables(engine)
    except DBAPIError as error:
        await engine.dispose()
        cause = driver_error(error)
        if cause is None:
            raise
        raise _unusable(path, cause) from error
    if found > SCHEMA_VERSION:
        await engine.dispose()
        raise ConfigError(
            f"{path} was written by a newer version (schema {found}, this one knows {SCHEMA_VERSION})",
            remedy="Run the newer version, or move the file away: restore points do not depend on it.",
        )
    return engine


async def _make_tables(engine: AsyncEngine) -> int:
    """In a file of this version or an older one. Gives the version that the file had."""
    async with engine.begin() as connection:
        found: int = (await connection.execute(sql.text("PRAGMA user_version"))).scalar_one()
        if found <= SCHEMA_VERSION:
            await connection.run_sync(METADATA.create_all)
            await connection.execute(sql.text(f"PRAGMA user_version={SCHEMA_VERSION}"))
    return found


def _check(path: Path) -> None:
    """Look at every page: the file is small, and what it is asked later must not end at a damaged one."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise _unusable(path, error) from error
    if told != "ok":
        raise _unusable(path, sqlite3.DatabaseError(told))


def _unusable(path: Path, error: sqlite3.DatabaseError) -> StateDamaged | StateFull:
    return unusable(path, "The catalog", _LOST, error)


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()
