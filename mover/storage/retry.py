"""Repeats what may succeed later: bounded tries, jittered pauses, one budget of time a call.

Only retryable errors are repeated; what is denied, full, missing or in conflict is not.
Every verb is safe to repeat: a create that meets its own bytes has succeeded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mover.clock import Clock
from mover.errors import StorageError
from mover.storage.protocol import Bytes, ObjectInfo, Store, StoreTraits
from mover.storage.watch import StoreWatch, Unwatched

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call is worth repeating."""

    tries: int = 8
    """With these pauses about 40 s: a restart of a store or a failover fits, a dead one is told soon."""
    budget_s: float = 300.0
    """No new try after this, whatever the tries: two time-outs of a pack on a slow line."""
    first_pause_s: float = 0.5
    longest_pause_s: float = 15.0


class RetryingStore:
    """See ``protocol.Store``. Each call is repeated until ``patience`` ends; then its last error is raised.

    watch: who is told of each answer and each failed try; None: nobody.
    """

    def __init__(
        self, store: Store, clock: Clock, patience: Patience | None = None, watch: StoreWatch | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._patience = patience or Patience()
        self._watch = watch or Unwatched()

    @property
    def traits(self) -> StoreTraits:
        return self._store.traits

    def learn(self, traits: StoreTraits) -> None:
        self._store.learn(traits)

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        await self._repeat(lambda: self._store.create(name, parts))

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        await self._repeat(lambda: self._store.replace(name, parts))

    async def get(self, name: str) -> bytes:
        return await self._repeat(lambda: self._store.get(name))

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        return await self._repeat(lambda: self._store.get_range(name, offset_bytes, length_bytes))

    async def info(self, name: str) -> ObjectInfo | None:
        return await self._repeat(lambda: self._store.info(name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """A listing that breaks off is begun again and continued after the last name it gave."""
        campaign = _Campaign(self._clock, self._patience, self._watch)
        last = ""
        while True:
            try:
                async for info in self._store.list(prefix):
                    if info.name > last:
                        yield info
                        last = info.name
                        campaign = _Campaign(self._clock, self._patience, self._watch)
                self._watch.answered()
                return
            except StorageError as error:
                await campaign.pause_after(error)

    async def delete(self, name: str) -> None:
        await self._repeat(lambda: self._store.delete(name))

    async def free_bytes(self) -> int | None:
        return await self._repeat(self._store.free_bytes)

    async def close(self) -> None:
        await self._store.close()

    async def _repeat(self, call: Callable[[], Awaitable[T]]) -> T:
        campaign = _Campaign(self._clock, self._patience, self._watch)
        while True:
            try:
                answer = await call()
            except StorageError as error:
                await campaign.pause_after(error)
            else:
                self._watch.answered()
                return answer


class _Campaign:
    """The tries of one call."""

    def __init__(self, clock: Clock, patience: Patience, watch: StoreWatch) -> None:
        self._clock = clock
        self._patience = patience
        self._watch = watch
        self._tries = 0
        self._started = clock.monotonic()

    async def pause_after(self, error: StorageError) -> None:
        """Wait before the next try, or raise the error when there is none."""
        self._watch.failed(error, self._clock.now())
        self._tries += 1
        spent_s = self._clock.monotonic() - self._started
        if not error.retryable:
            raise error
        if self._tries >= self._patience.tries or spent_s >= self._patience.budget_s:
            error.facts |= {"tries": self._tries, "seconds": round(spent_s, 1)}
            raise error
        pause_s = min(self._patience.longest_pause_s, self._patience.first_pause_s * 2 ** (self._tries - 1))
        await self._clock.sleep(pause_s * (0.5 + self._clock.random().random() / 2))
