"""The index deltas of one session: when one is due, and its writing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from mover.errors import ObjectExists
from mover.repository.index import IndexObject
from mover.repository.keys import Secrets
from mover.repository.making import Owner, Pack
from mover.repository.pack import Contents
from mover.repository.tools import Tools

INDEX_EVERY_PACKS = 64
"""An index delta is due after so many packs: what a kill may cost at most …"""
INDEX_EVERY_RECORDS = 32768
"""… or so many records: the bound of what is known in memory only …"""
INDEX_EVERY_S = 60.0
"""… or so much time."""


class Deltas:
    """For one session, on its loop."""

    def __init__(self, tools: Tools, owner: Owner, session_id: str, next_number: int) -> None:
        self._tools, self._owner, self._session_id = tools, owner, session_id
        self._next_number = next_number
        self._lock = asyncio.Lock()
        self._written_at = tools.clock.monotonic()

    def is_due(self) -> bool:
        durable = self._tools.packer.unindexed(self._owner)
        if len(durable) >= INDEX_EVERY_PACKS:
            return True
        if sum(len(_contents(pack).table) for pack in durable) >= INDEX_EVERY_RECORDS:
            return True
        return bool(durable) and self._tools.clock.monotonic() - self._written_at >= INDEX_EVERY_S

    async def write(self) -> None:
        """Name all durable packs that no index object names yet."""
        async with self._lock:
            packs = self._tools.packer.unindexed(self._owner)
            if packs:
                await self._tools.install(await self._create([_contents(pack) for pack in packs]))
                await self._tools.off_loop(partial(self._tools.packer.indexed, packs))
            self._written_at = self._tools.clock.monotonic()

    async def _create(self, contents: Sequence[Contents]) -> IndexObject:
        while True:
            delta, parts = await self._tools.off_loop(
                partial(_sealed, self._tools.secrets, self._session_id, self._next_number, contents)
            )
            self._next_number += 1
            try:
                await self._tools.store.create(delta.name, parts)
            except ObjectExists:
                # A put of ours took effect late, before this session was resumed: the next number is free.
                continue
            return delta


def _sealed(
    secrets: Secrets, session_id: str, number: int, contents: Sequence[Contents]
) -> tuple[IndexObject, list[bytes]]:
    delta = IndexObject.of(session_id, number, contents)
    return delta, delta.seal(secrets)


def _contents(pack: Pack) -> Contents:
    assert pack.contents is not None
    return pack.contents
