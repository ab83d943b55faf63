"""An honest store in memory, for tests and for the simulation."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mover.clock import Clock, SystemClock
from mover.storage.names import check_name, check_prefix, octets
from mover.storage.problems import object_exists, object_missing, object_short
from mover.storage.protocol import Bytes, ObjectInfo, StoreTraits


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    modified_at: float


class MemoryStore:
    """See ``protocol.Store``. Every verb takes effect at once and never suspends."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._objects: dict[str, _Object] = {}
        self._traits = StoreTraits(has_create_only=True, list_lag_s=0.0, description="memory")

    @property
    def traits(self) -> StoreTraits:
        return self._traits

    def learn(self, traits: StoreTraits) -> None:
        self._traits = traits

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        data = _joined(parts)
        held = self._objects.get(check_name(name))
        if held is None:
            self._objects[name] = _Object(data, self._clock.now())
        elif held.data != data:
            raise object_exists(name, self._traits.description)

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        self._objects[check_name(name)] = _Object(_joined(parts), self._clock.now())

    async def get(self, name: str) -> bytes:
        held = self._objects.get(check_name(name))
        if held is None:
            raise object_missing(name, self._traits.description)
        return held.data

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        data = await self.get(name)
        wanted_end = offset_bytes + length_bytes
        if wanted_end > len(data):
            raise object_short(name, wanted_end=wanted_end, found_end=len(data))
        return memoryview(data)[offset_bytes:wanted_end]

    async def info(self, name: str) -> ObjectInfo | None:
        held = self._objects.get(check_name(name))
        return None if held is None else ObjectInfo(name, len(held.data), held.modified_at)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        names = sorted(self._objects)
        first = bisect_left(names, check_prefix(prefix))
        last = bisect_right(names, prefix + "\x7f")
        for name in names[first:last]:
            if (found := await self.info(name)) is not None:
                yield found

    async def delete(self, name: str) -> None:
        self._objects.pop(check_name(name), None)

    async def free_bytes(self) -> int | None:
        return None

    async def close(self) -> None:
        """Nothing is held open; the objects stay."""


def _joined(parts: Sequence[Bytes]) -> bytes:
    return b"".join(octets(part) for part in parts)
