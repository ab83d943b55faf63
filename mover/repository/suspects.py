"""Packs of which something is known to be damaged: ``suspects/<pack id>``.

A suspect is no tombstone: points may still need it, and what is whole in it serves. But no
writer relies on it any more, so a block that is met again is stored again, and readers take
that copy. Marks are only ever added.
"""

from __future__ import annotations

import orjson

from mover.clock import Clock, iso
from mover.errors import ObjectExists
from mover.repository import layout
from mover.repository.keys import Secrets
from mover.repository.layout import ObjectKind
from mover.repository.seal import seal_object
from mover.storage.protocol import Store

BY = "repair"


async def list_suspects(store: Store) -> frozenset[bytes]:
    """Ids of the packs that are marked. Existence alone counts."""
    found = [layout.pack_id_of(info.name) async for info in store.list(layout.SUSPECTS)]
    return frozenset(pack_id for pack_id in found if pack_id)


async def mark_suspect(store: Store, secrets: Secrets, clock: Clock, pack_id: bytes, why: str) -> bool:
    """Mark a pack; False when it was marked before. Durable on return."""
    try:
        await store.create(layout.suspect_name(pack_id), seal_suspect(secrets, pack_id, at=iso(clock.now()), why=why))
    except ObjectExists:
        return False
    return True


def seal_suspect(secrets: Secrets, pack_id: bytes, *, at: str, why: str, salt: bytes | None = None) -> list[bytes]:
    """The parts to put. salt: for tests only."""
    content = {"at": at, "by": BY, "pack": pack_id.hex(), "why": why}
    name = layout.suspect_name(pack_id)
    return seal_object(secrets, ObjectKind.SUSPECT, name, [orjson.dumps(content)], salt=salt)
