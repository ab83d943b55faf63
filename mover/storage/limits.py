"""Bounds on a store: calls in flight, and how long each may take.

Whole packs and the small calls beside them wait in different queues, so that a heartbeat
never stands behind uploads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mover.errors import StoreUnreachable
from mover.storage.names import octets
from mover.storage.protocol import Bytes, ObjectInfo, Store, StoreTraits
from mover.units import KIB

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """The defaults' reasons stand beside them."""

    data_calls: int = 16
    """Puts and gets in flight: the most uploads that the settings allow."""
    small_calls: int = 16
    timeout_s: float = 60.0
    """For a call's answer, its bytes not counted: servers under load pause for tens of seconds."""
    slowest_bytes_per_s: int = 256 * KIB
    """A line slower than this counts as broken: a pack of 32 MiB may take 2 minutes more."""
    whole_s: float = 300.0
    """For reading a whole object, whose size is not known before."""


class LimitedStore:
    """See ``protocol.Store``. A call that takes too long is cancelled: StoreUnreachable."""

    def __init__(self, store: Store, limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()
        self._data = asyncio.Semaphore(self._limits.data_calls)
        self._small = asyncio.Semaphore(self._limits.small_calls)

    @property
    def traits(self) -> StoreTraits:
        return self._store.traits

    def learn(self, traits: StoreTraits) -> None:
        self._store.learn(traits)

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        time_s = self._time_for(sum(octets(part).nbytes for part in parts))
        async with self._data:
            await self._within(time_s, f"Writing {name}", self._store.create(name, parts))

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        time_s = self._time_for(sum(octets(part).nbytes for part in parts))
        async with self._small:
            await self._within(time_s, f"Writing {name}", self._store.replace(name, parts))

    async def get(self, name: str) -> bytes:
        async with self._data:
            return await self._within(self._limits.whole_s, f"Reading {name}", self._store.get(name))

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        call = self._store.get_range
        async with self._data:
            return await self._within(
                self._time_for(length_bytes), f"Reading {name}", call(name, offset_bytes, length_bytes)
            )

    async def info(self, name: str) -> ObjectInfo | None:
        async with self._small:
            return await self._within(self._time_for(0), f"Looking at {name}", self._store.info(name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """The time is for each page. No place is held: the reader may work between two pages."""
        found = aiter(self._store.list(prefix))
        while True:
            try:
                info = await self._within(self._time_for(0), f"Listing {prefix or 'everything'}", anext(found))
            except StopAsyncIteration:
                return
            yield info

    async def delete(self, name: str) -> None:
        async with self._small:
            await self._within(self._time_for(0), f"Deleting {name}", self._store.delete(name))

    async def free_bytes(self) -> int | None:
        async with self._small:
            return await self._within(self._time_for(0), "Asking for free space", self._store.free_bytes())

    async def close(self) -> None:
        await self._store.close()

    def _time_for(self, size_bytes: int) -> float:
        return self._limits.timeout_s + size_bytes / self._limits.slowest_bytes_per_s

    async def _within(self, time_s: float, doing: str, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(time_s):
                return await call
        except TimeoutError:
            where = self._store.traits.description
            raise StoreUnreachable(
                f"{doing} in {where} took longer than {time_s:.0f} s",
                remedy="Check the network and the load of the store, then run again.",
                seconds=time_s,
            ) from None
