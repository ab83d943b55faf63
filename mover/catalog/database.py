"""The catalog's file: SQLite through SQLAlchemy Core, opened with its pragmas and version.

Everything in it can be rebuilt or done without: restore points live in the repository.
Only ``catalog/`` writes SQL; extents and block maps never come here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mover.errors import ConfigError

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


async def open_database(path: Path) -> AsyncEngine:
    """Open or create the file; raises ConfigError when a newer version wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=_CONNECTIONS, max_overflow=0)
    event.listen(engine.sync_engine, "connect", _prepare)
    async with engine.begin() as connection:
        found = (await connection.execute(sql.text("PRAGMA user_version"))).scalar_one()
        if found <= SCHEMA_VERSION:
            await connection.run_sync(METADATA.create_all)
            await connection.execute(sql.text(f"PRAGMA user_version={SCHEMA_VERSION}"))
    if found > SCHEMA_VERSION:
        await engine.dispose()
        raise ConfigError(
            f"{path} was written by a newer version (schema {found}, this one knows {SCHEMA_VERSION})",
            remedy="Run the newer version, or move the file away: restore points do not depend on it.",
        )
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()
