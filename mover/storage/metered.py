"""Counts what a store is asked and how it answers: requests, bytes, seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from mover.clock import stopwatch
from mover.errors import MoverError
from mover.metrics import STORE_BYTES, STORE_REQUESTS, STORE_SECONDS
from mover.storage.names import octets
from mover.storage.protocol import Bytes, ObjectInfo, Store, StoreTraits


class MeteredStore:
    """See ``protocol.Store``. outcome: ``ok``, ``cancelled``, ``error`` or the code of our error."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def traits(self) -> StoreTraits:
        return self._store.traits

    def learn(self, traits: StoreTraits) -> None:
        self._store.learn(traits)

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        with _measured("create"):
            await self._store.create(name, parts)
        _count_written(parts)

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        with _measured("replace"):
            await self._store.replace(name, parts)
        _count_written(parts)

    async def get(self, name: str) -> bytes:
        with _measured("get"):
            data = await self._store.get(name)
        STORE_BYTES.labels("read").inc(len(data))
        return data

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        with _measured("get_range"):
            data = await self._store.get_range(name, offset_bytes, length_bytes)
        STORE_BYTES.labels("read").inc(length_bytes)
        return data

    async def info(self, name: str) -> ObjectInfo | None:
        with _measured("info"):
            return await self._store.info(name)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Counted once a listing; not timed, since its reader's time lies between the pages."""
        with _counted("list"):
            async for info in self._store.list(prefix):
                yield info

    async def delete(self, name: str) -> None:
        with _measured("delete"):
            await self._store.delete(name)

    async def free_bytes(self) -> int | None:
        return await self._store.free_bytes()

    async def close(self) -> None:
        await self._store.close()


@contextmanager
def _measured(verb: str) -> Iterator[None]:
    started = stopwatch()
    with _counted(verb):
        try:
            yield
        finally:
            STORE_SECONDS.labels(verb).observe(stopwatch() - started)


@contextmanager
def _counted(verb: str) -> Iterator[None]:
    outcome = "error"
    try:
        yield
        outcome = "ok"
    except MoverError as error:
        outcome = error.code
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    except GeneratorExit:  # the reader of a listing has seen enough
        outcome = "ok"
        raise
    finally:
        STORE_REQUESTS.labels(verb, outcome).inc()


def _count_written(parts: Sequence[Bytes]) -> None:
    STORE_BYTES.labels("written").inc(sum(octets(part).nbytes for part in parts))
