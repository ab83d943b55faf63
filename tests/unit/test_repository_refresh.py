"""Following the store, beside a change of the local index that was cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mover.repository.index import IndexObject, LocalIndex
from mover.repository.keys import Secrets
from mover.repository.layout import Cipher
from mover.repository.refresh import IndexCache
from mover.repository.segment import Part
from mover.storage.memory import MemoryStore
from tests.support.repositories import until

SECRETS = Secrets(b"r" * 16, Cipher.AES_256_GCM, b"k" * 16, b"i" * 32, {b"k" * 16: b"d" * 32})


class Helper(ThreadPoolExecutor):
    """One thread; calls ``whenever`` it is given something to do."""

    whenever: Callable[[], object] = bool

    def submit(self, *work: Any, **named: Any) -> Future[Any]:
        self.whenever()
        return super().submit(*work, **named)


async def test_a_cancelled_change_that_goes_on_in_its_thread_does_not_fail_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is cancelled while its session takes in the index; another one's opens meanwhile."""
    store, local, helper = MemoryStore(), LocalIndex(tmp_path), Helper(1)
    made = IndexObject.of("a" * 32, 0, [])
    await store.create(made.name, made.seal(SECRETS))
    cache = IndexCache(store, SECRETS, local, helper)
    entered, go_on, add = threading.Event(), threading.Event(), local.add

    def slow(parts: Sequence[Part]) -> None:
        entered.set()
        go_on.wait(20)
        add(parts)

    monkeypatch.setattr(local, "add", slow)
    async with asyncio.TaskGroup() as jobs:
        cut_off = jobs.create_task(cache.refresh())
        await until(entered.is_set)
        cut_off.cancel()
    assert cut_off.cancelled()
    monkeypatch.setattr(helper, "whenever", go_on.set)
    await cache.refresh()
    assert [len(one.sources) for one in local.segments] == [1]
    cache.close()
