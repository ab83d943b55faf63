"""The ledger: what we caused, or were about to cause, to exist on a cluster.

A line is written before the call that makes a thing (intended), once more with the
thing's identity (made), and ends as gone, as given (handed over to the user) or as forgotten
(by the operator's word). What is none of these is owed, and ``operations/reconcile.py`` sees to
it. Also remembers on which clusters "unlisted means zero" has been confirmed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.ext.asyncio import AsyncEngine

from mover.catalog.database import METADATA, open_database
from mover.clock import Clock
from mover.metrics import LEDGER_ENTRIES


class Kind(StrEnum):
    """What an entry stands for."""

    SNAPSHOT = "snapshot"
    ATTACHMENT = "attachment"
    """A clone plugged into the Proxy VM (or, at restore, into the VM being rebuilt)."""
    TEMPORARY_DISK = "temporary_disk"
    """An empty disk plugged into the Proxy VM, to be filled."""
    VM = "vm"
    HOOK_POST = "hook_post"
    """A post-snapshot command that has to run."""


class State(StrEnum):
    """Where the thing is in its life."""

    INTENDED = "intended"
    MADE = "made"
    GONE = "gone"
    GIVEN = "given"
    FORGOTTEN = "forgotten"
    """The operator says that it is not ours to care for: never listed, never touched."""


OPEN = (State.INTENDED, State.MADE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. ``attempt`` counts the tries at the same (job, kind, ordinal), from 1."""

    id: int
    job: str
    kind: Kind
    ordinal: int
    attempt: int
    state: State
    identity: str | None
    facts: Mapping[str, Any]
    intended_at: float

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


_ENTRIES = sql.Table(
    "ledger",
    METADATA,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("job", sql.String, nullable=False),
    sql.Column("kind", sql.String, nullable=False),
    sql.Column("ordinal", sql.Integer, nullable=False),
    sql.Column("attempt", sql.Integer, nullable=False),
    sql.Column("state", sql.String, nullable=False, index=True),
    sql.Column("identity", sql.String),
    sql.Column("facts", sql.String, nullable=False),
    sql.Column("intended_at", sql.Float, nullable=False),
    sql.Column("changed_at", sql.Float, nullable=False),
    sql.UniqueConstraint("job", "kind", "ordinal", "attempt"),
)

_TRUST = sql.Table(
    "cluster_trust",
    METADATA,
    sql.Column("cluster_uuid", sql.String, primary_key=True),
    sql.Column("unlisted_is_zero_since", sql.Float, nullable=False),
)


class Ledger:
    """The only writer of its tables; every method is one durable transaction."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, *, clock: Clock) -> Ledger:
        """Open or create the catalog's file."""
        return cls(await open_database(path), clock)

    async def intend(self, kind: Kind, *, job: str, ordinal: int, facts: Mapping[str, Any]) -> Entry:
        """Write what is about to be made; durable on return. The attempt is the next free one."""
        now = self._clock.now()
        async with self._engine.begin() as connection:
            same = (_ENTRIES.c.job == job) & (_ENTRIES.c.kind == kind) & (_ENTRIES.c.ordinal == ordinal)
            last = (await connection.execute(sql.select(sql.func.max(_ENTRIES.c.attempt)).where(same))).scalar_one()
            row = {
                "job": job,
                "kind": kind,
                "ordinal": ordinal,
                "attempt": (last or 0) + 1,
                "state": State.INTENDED,
                "facts": json.dumps(dict(facts)),
                "intended_at": now,
                "changed_at": now,
            }
            result = await connection.execute(sql.insert(_ENTRIES).values(row))
            key = result.inserted_primary_key
        assert key is not None
        await self._count()
        return await self.entry(key[0])

    async def made(self, entry: Entry, identity: str, **more_facts: Any) -> Entry:
        """The call succeeded, or looking showed that it did: this is the thing."""
        facts = json.dumps({**entry.facts, **more_facts})
        return await self._change(entry, state=State.MADE, identity=identity, facts=facts)

    async def note(self, entry: Entry, **more_facts: Any) -> Entry:
        """Add facts; the state stays."""
        return await self._change(entry, facts=json.dumps({**entry.facts, **more_facts}))

    async def gone(self, entry: Entry) -> Entry:
        """It does not exist (any more), or has run."""
        return await self._change(entry, state=State.GONE)

    async def given(self, entry: Entry) -> Entry:
        """It is the user's now; we never touch it again."""
        return await self._change(entry, state=State.GIVEN)

    async def forget(self, entry: Entry, identity: str) -> Entry:
        """The operator answers for this thing; we never touch it again."""
        return await self._change(entry, state=State.FORGOTTEN, identity=identity)

    async def forget_stranger(self, kind: Kind, identity: str) -> None:
        """The same of a thing that no line names."""
        now = self._clock.now()
        row = {"job": identity, "kind": kind, "ordinal": 0, "attempt": 1, "state": State.FORGOTTEN}
        row |= {"identity": identity, "facts": "{}", "intended_at": now, "changed_at": now}
        async with self._engine.begin() as connection:
            await connection.execute(sql.insert(_ENTRIES).prefix_with("OR IGNORE").values(row))

    async def entry(self, entry_id: int) -> Entry:
        """One line as it is now."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(sql.select(_ENTRIES).where(_ENTRIES.c.id == entry_id))).one()
        return _entry(row)

    async def open_entries(self, job: str | None = None, kind: Kind | None = None) -> list[Entry]:
        """What is intended or made, oldest first."""
        return await self.entries(job, kind, states=OPEN)

    async def entries(
        self, job: str | None = None, kind: Kind | None = None, *, states: tuple[State, ...] = tuple(State)
    ) -> list[Entry]:
        """Lines of a job, a kind and some states, oldest first."""
        query = sql.select(_ENTRIES).where(_ENTRIES.c.state.in_(states)).order_by(_ENTRIES.c.id)
        if job is not None:
            query = query.where(_ENTRIES.c.job == job)
        if kind is not None:
            query = query.where(_ENTRIES.c.kind == kind)
        async with self._engine.connect() as connection:
            return [_entry(row) for row in await connection.execute(query)]

    async def lines_about(self, *, identities: Collection[str], snapshot_jobs: Collection[str]) -> list[Entry]:
        """Lines, in any state, that may speak of what is on a cluster, oldest first: all that ever were are too many.

        Those that are open; those that name one of these things; disks that were ordered and never named; the
        snapshots of these jobs.
        """
        disks = (Kind.ATTACHMENT, Kind.TEMPORARY_DISK)
        about = sql.or_(
            _ENTRIES.c.state.in_(OPEN),
            _ENTRIES.c.identity.in_(_listed(identities)),
            _ENTRIES.c.identity.is_(None) & _ENTRIES.c.kind.in_(disks),
            (_ENTRIES.c.kind == Kind.SNAPSHOT) & _ENTRIES.c.job.in_(_listed(snapshot_jobs)),
        )
        async with self._engine.connect() as connection:
            rows = await connection.execute(sql.select(_ENTRIES).where(about).order_by(_ENTRIES.c.id))
            return [_entry(row) for row in rows]

    async def prune(self, *, older_than_s: float) -> None:
        """Forget lines that ended so long ago that nothing of them can be left."""
        ended = _ENTRIES.c.state.in_((State.GONE, State.GIVEN))
        before = self._clock.now() - older_than_s
        async with self._engine.begin() as connection:
            await connection.execute(sql.delete(_ENTRIES).where(ended & (_ENTRIES.c.changed_at < before)))

    async def trusts_unlisted(self, cluster_uuid: str) -> bool:
        """True once a full read on this cluster found only zeroes in unlisted space."""
        query = sql.select(_TRUST.c.cluster_uuid).where(_TRUST.c.cluster_uuid == cluster_uuid)
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).first() is not None

    async def trust_unlisted(self, cluster_uuid: str) -> None:
        """Remember it."""
        row = {"cluster_uuid": cluster_uuid, "unlisted_is_zero_since": self._clock.now()}
        async with self._engine.begin() as connection:
            await connection.execute(sql.insert(_TRUST).prefix_with("OR IGNORE").values(row))

    async def distrust_unlisted(self, cluster_uuid: str) -> None:
        """Forget it: an audit was contradicted."""
        async with self._engine.begin() as connection:
            await connection.execute(sql.delete(_TRUST).where(_TRUST.c.cluster_uuid == cluster_uuid))

    async def close(self) -> None:
        """Let go of the file."""
        await self._engine.dispose()

    async def _change(self, entry: Entry, **values: Any) -> Entry:
        change = sql.update(_ENTRIES).where(_ENTRIES.c.id == entry.id)
        async with self._engine.begin() as connection:
            await connection.execute(change.values(changed_at=self._clock.now(), **values))
        await self._count()
        return await self.entry(entry.id)

    async def _count(self) -> None:
        query = sql.select(_ENTRIES.c.kind, sql.func.count()).where(_ENTRIES.c.state.in_(OPEN))
        async with self._engine.connect() as connection:
            counts = {
                str(kind): int(count) for kind, count in await connection.execute(query.group_by(_ENTRIES.c.kind))
            }
        for kind in Kind:
            LEDGER_ENTRIES.labels(kind).set(counts.get(kind, 0))


def _listed(texts: Collection[str]) -> sql.Select[Any]:
    """Any number of them as one parameter: a statement takes some 30,000."""
    return sql.select(sql.func.json_each(json.dumps(list(texts))).table_valued("value").c.value)


def _entry(row: sql.Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        job=row.job,
        kind=Kind(row.kind),
        ordinal=row.ordinal,
        attempt=row.attempt,
        state=State(row.state),
        identity=row.identity,
        facts=json.loads(row.facts),
        intended_at=row.intended_at,
    )
