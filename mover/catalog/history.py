"""What happened to VMs that no restore point tells: a backup failed, a point was verified, or found damaged.

A memory for the metrics, so that they outlive a restart and show what other commands found. It
never stands in the way: what cannot be written or read is logged, and forgotten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.ext.asyncio import AsyncEngine

from mover import logs
from mover.catalog.database import METADATA, open_database
from mover.errors import MoverError

_LOG = logs.get(__name__)
_TROUBLE = (sql.exc.SQLAlchemyError, sqlite3.Error, OSError, MoverError)


class What(StrEnum):
    """What is remembered."""

    FAILED = "failed"
    """The newest backup of the VM, at its end."""
    VERIFIED = "verified"
    """A point of the VM, whole."""
    GONE = "gone"
    """The VM, from its cluster."""
    DAMAGED = "damaged"
    """A point of the VM, whose id is the subject."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line. at: Unix seconds."""

    vm_uuid: str
    vm_name: str
    what: What
    subject: str
    at: float


_HISTORY = sql.Table(
    "vm_history",
    METADATA,
    sql.Column("vm_uuid", sql.String, primary_key=True),
    sql.Column("what", sql.String, primary_key=True),
    sql.Column("subject", sql.String, primary_key=True),
    sql.Column("vm_name", sql.String, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)


class History:
    """The only writer of its table; opens the catalog's file when first needed. Never raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: AsyncEngine | None = None

    async def note(self, fact: Fact) -> None:
        """It happened; what was noted of the same before is replaced."""
        row = asdict(fact)
        await self._write(sql.insert(_HISTORY).prefix_with("OR REPLACE").values(row))

    async def forget(self, vm_uuid: str, what: What, *, subjects: Collection[str] = ("",)) -> None:
        """It holds no more."""
        same = (_HISTORY.c.vm_uuid == vm_uuid) & (_HISTORY.c.what == what) & _HISTORY.c.subject.in_(subjects)
        await self._write(sql.delete(_HISTORY).where(same))

    async def all(self) -> list[Fact] | None:
        """Everything that holds; None where it cannot be read."""
        try:
            async with (await self._opened()).connect() as connection:
                rows = (await connection.execute(sql.select(_HISTORY))).all()
        except _TROUBLE as error:
            _LOG.warning("what happened to VMs before is not known", path=str(self._path), error=str(error))
            return None
        return [Fact(row.vm_uuid, row.vm_name, What(row.what), row.subject, row.at) for row in rows]

    async def close(self) -> None:
        """Let go of the file."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def _write(self, change: sql.Executable) -> None:
        try:
            async with (await self._opened()).begin() as connection:
                await connection.execute(change)
        except _TROUBLE as error:
            _LOG.warning("this will not be remembered", path=str(self._path), error=str(error))

    async def _opened(self) -> AsyncEngine:
        if self._engine is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Refused at once and here: a refusal on the library's own thread may outlive the event loop.
            sqlite3.connect(self._path).close()
            self._engine = await open_database(self._path)
        return self._engine
