"""A store that fails where it is told to: for tests that break the Nth call and look what follows.

Wraps any Store and counts its calls, the first being number 1::

    store = FaultyStore(MemoryStore())
    store.fail(3, How.EFFECT_THEN_ERROR)                  # the third call of all
    store.fail(1, How.ERROR, verb="create", prefix="points/", error=StoreFull(...))
    ...
    store.calls    # ["create packs/00/ab", "list points/", ...], also after a run without faults
    store.failed   # the calls that met a fault: empty means that nth was never reached

To break every call of an operation in turn: run it once to learn ``len(store.calls)``, then
once for each nth and each ``How``. Put ``RetryingStore(store, FakeClock())`` above to see
retries converge. ``EVERY_FAULT`` are those after which a retry must converge.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mover.errors import MoverError, StoreUnreachable
from mover.storage.protocol import Bytes, ObjectInfo, Store, StoreTraits


class How(enum.Enum):
    ERROR = "error before effect"
    EFFECT_THEN_ERROR = "effect, then error"
    TIME_OUT = "no effect, and the error of a call that took too long"
    LATE_EFFECT = "error now; the effect comes two calls later, or with settle()"
    CUT_BODY = "the body breaks off: a put leaves nothing, a get ends in an error"
    SHORT_BODY = "a lie: a get returns only its first half; a put is not made, but succeeds"
    HANG = "no answer until it is cancelled (put a LimitedStore above)"


CI_FAULTS = (How.ERROR, How.EFFECT_THEN_ERROR)
EVERY_FAULT = (*CI_FAULTS, How.TIME_OUT, How.LATE_EFFECT, How.CUT_BODY)
_LATE_CALLS = 2


@dataclass
class _Plan:
    nth: int
    how: How
    verb: str | None
    prefix: str
    error: MoverError | None
    seen: int = 0


@dataclass
class _Late:
    calls_left: int
    effect: Callable[[], Awaitable[Any]] = field(repr=False)


class FaultyStore:
    """See ``protocol.Store`` and the module's words."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.calls: list[str] = []
        self.failed: list[str] = []
        self._plans: list[_Plan] = []
        self._late: list[_Late] = []

    def fail(
        self,
        nth: int,
        how: How,
        *,
        times: int = 1,
        verb: str | None = None,
        prefix: str = "",
        error: MoverError | None = None,
    ) -> None:
        """Break the nth call from now on, of those with that verb and prefix if given, and ``times - 1`` after it.

        verb: create, replace, get, get_range, info, list, delete. error: raised in place of a
        retryable StoreUnreachable.
        """
        self._plans.extend(_Plan(nth, how, verb, prefix, error) for _ in range(times))

    async def settle(self) -> None:
        """Let all late effects happen now; what they meet, nobody reads."""
        late, self._late = self._late, []
        for each in late:
            await _unread(each.effect)

    @property
    def traits(self) -> StoreTraits:
        return self.inner.traits

    def learn(self, traits: StoreTraits) -> None:
        self.inner.learn(traits)

    async def create(self, name: str, parts: Sequence[Bytes]) -> None:
        kept = [bytes(part) for part in parts]
        await self._write("create", name, lambda: self.inner.create(name, kept))

    async def replace(self, name: str, parts: Sequence[Bytes]) -> None:
        kept = [bytes(part) for part in parts]
        await self._write("replace", name, lambda: self.inner.replace(name, kept))

    async def delete(self, name: str) -> None:
        await self._write("delete", name, lambda: self.inner.delete(name))

    async def get(self, name: str) -> bytes:
        return await self._read("get", name, lambda: self.inner.get(name))

    async def get_range(self, name: str, offset_bytes: int, length_bytes: int) -> Bytes:
        return await self._read("get_range", name, lambda: self.inner.get_range(name, offset_bytes, length_bytes))

    async def info(self, name: str) -> ObjectInfo | None:
        return await self._read("info", name, lambda: self.inner.info(name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """EFFECT_THEN_ERROR and CUT_BODY break off after the first half; SHORT_BODY ends there in silence."""
        plan = await self._begin("list", prefix)
        if plan is None:
            async for info in self.inner.list(prefix):
                yield info
            return
        if plan.how in (How.EFFECT_THEN_ERROR, How.CUT_BODY, How.SHORT_BODY):
            found = [info async for info in self.inner.list(prefix)]
            for info in found[: len(found) // 2]:
                yield info
        await _answer(plan)

    async def free_bytes(self) -> int | None:
        return await self.inner.free_bytes()

    async def close(self) -> None:
        await self.inner.close()

    async def _write(self, verb: str, name: str, effect: Callable[[], Awaitable[None]]) -> None:
        plan = await self._begin(verb, name)
        if plan is None:
            await effect()
            return
        if plan.how is How.EFFECT_THEN_ERROR:
            await _unread(effect)
        if plan.how is How.LATE_EFFECT:
            self._late.append(_Late(_LATE_CALLS, effect))
        await _answer(plan)

    async def _read(self, verb: str, name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        plan = await self._begin(verb, name)
        answer = await ask() if plan is None or plan.how is How.SHORT_BODY else None
        if plan is None:
            return answer
        await _answer(plan)
        return answer if isinstance(answer, ObjectInfo | None) else answer[: len(answer) // 2]

    async def _begin(self, verb: str, name: str) -> _Plan | None:
        """Count the call; the fault that it meets."""
        await self._ripen()
        self.calls.append(f"{verb} {name}")
        met = None
        for plan in list_copy(self._plans):
            if plan.verb in (None, verb) and name.startswith(plan.prefix):
                plan.seen += 1
                if met is None and plan.seen >= plan.nth:
                    self._plans.remove(plan)
                    met = plan
        if met is not None:
            self.failed.append(f"{verb} {name}")
        return met

    async def _ripen(self) -> None:
        for late in list_copy(self._late):
            late.calls_left -= 1
            if late.calls_left < 0 and late in self._late:
                self._late.remove(late)
                await _unread(late.effect)


list_copy = list  # inside the class ``list`` is the verb


async def _answer(plan: _Plan) -> None:
    """What the caller gets of the fault."""
    if plan.how is How.SHORT_BODY:
        return
    if plan.how is How.HANG:
        await asyncio.get_running_loop().create_future()
    raise plan.error or StoreUnreachable(f"fault: {plan.how.value}", remedy="This is a test's own fault; run again.")


async def _unread(effect: Callable[[], Awaitable[Any]]) -> None:
    try:
        await effect()
    except MoverError:
        return
