"""The object below ``sessions/``: says to collectors that its owner lives, and what it may write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import orjson

from mover.clock import Clock, secret_bytes
from mover.errors import ObjectMissing, RepositoryError, SessionVoided
from mover.repository import layout
from mover.repository.keys import Secrets
from mover.repository.layout import ObjectKind
from mover.repository.seal import damaged, open_object, seal_object
from mover.storage.protocol import Store


def new_session_id() -> str:
    """From the operating system: no seed may make two sessions one."""
    return secret_bytes(16).hex()


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What a session object says."""

    id: str
    kind: Literal["writer", "reader"]
    points: tuple[tuple[str, str], ...]
    """(VM UUID, point id) that it may write."""
    created_at: float
    beat: int = 0
    beat_at: float = 0.0

    def seal(self, secrets: Secrets, *, salt: bytes | None = None) -> list[bytes]:
        """The parts to put. salt: for tests only."""
        content = {
            "beat": self.beat,
            "beat_at": self.beat_at,
            "created_at": self.created_at,
            "id": self.id,
            "kind": self.kind,
            "points": [list(point) for point in self.points],
        }
        name = layout.session_name(self.id)
        return seal_object(secrets, ObjectKind.SESSION, name, [orjson.dumps(content)], salt=salt)

    @classmethod
    def open(cls, secrets: Secrets, name: str, stored: bytes) -> SessionRecord:
        """Raises Damaged."""
        (plain,) = open_object(secrets, ObjectKind.SESSION, name, stored, sections=1)
        try:
            content = orjson.loads(plain)
            points = tuple((vm_uuid, point_id) for vm_uuid, point_id in content["points"])
            found = cls(
                content["id"], content["kind"], points, content["created_at"], content["beat"], content["beat_at"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(name, f"a field is wrong ({error})") from None
        if layout.session_name(found.id) != name:
            raise damaged(name, "it is another session's")
        return found


class Hold:
    """Our own session object. One owner; only it rewrites the object."""

    def __init__(self, store: Store, secrets: Secrets, clock: Clock, record: SessionRecord) -> None:
        self._store, self._secrets, self._clock = store, secrets, clock
        self.record = record
        self._lock, self._has_ended = asyncio.Lock(), False
        self.name = layout.session_name(record.id)

    @classmethod
    async def create(
        cls,
        store: Store,
        secrets: Secrets,
        clock: Clock,
        kind: Literal["writer", "reader"],
        points: Sequence[tuple[str, str]] = (),
        *,
        session_id: str | None = None,
    ) -> Hold:
        """Announce a new session. session_id: of a former one whose work is all committed."""
        now = clock.now()
        record = SessionRecord(session_id or new_session_id(), kind, tuple(points), now, 0, now)
        hold = cls(store, secrets, clock, record)
        await store.create(hold.name, record.seal(secrets))
        return hold

    @classmethod
    async def resume(cls, store: Store, secrets: Secrets, clock: Clock, session_id: str) -> Hold | None:
        """The session as it was left; None when its object is gone (ended, or taken by a collector)."""
        name = layout.session_name(session_id)
        try:
            stored = await store.get(name)
        except ObjectMissing:
            return None
        hold = cls(store, secrets, clock, SessionRecord.open(secrets, name, stored))
        await hold.beat()
        return hold

    async def beat(self) -> None:
        """Rewrite the object; nothing once we ended it. Raises SessionVoided when a collector has taken it."""
        async with self._lock:
            if self._has_ended:
                return
            if await self._store.info(self.name) is None:
                raise voided(self.record.id)
            self.record = replace(self.record, beat=self.record.beat + 1, beat_at=self._clock.now())
            await self._store.replace(self.name, self.record.seal(self._secrets))

    async def end(self) -> None:
        """Nothing is held any more. No heartbeat in flight brings the object back."""
        async with self._lock:
            self._has_ended = True
            await self._store.delete(self.name)


def voided(session_id: str) -> SessionVoided:
    return SessionVoided(
        f"Session {session_id} was ended by a collector, which took it for dead",
        remedy="Run the job again: it starts a new session and finds what was stored before.",
        session=session_id,
    )


def interrupted(session_id: str) -> RepositoryError:
    """What a session's threads hear when whoever ran it was cancelled."""
    return RepositoryError(
        f"Session {session_id} was interrupted", remedy="Run the job again: it goes on from what is durable."
    )


def ended(session_id: str) -> RepositoryError:
    """What they hear when it was ended."""
    return RepositoryError(f"Session {session_id} has ended", remedy="Open a new session.")
