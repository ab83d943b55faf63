"""Writing sessions for benches: their uploads and heartbeats beside the block, ended with it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mover.clock import SystemClock
from mover.repository.keys import ScryptCost
from mover.repository.repository import Repository
from mover.repository.session import Session
from mover.storage.memory import MemoryStore

CHEAP = ScryptCost(16, 1, 1)
"""The passphrase's work is not what is measured."""


@asynccontextmanager
async def running(session: Session) -> AsyncIterator[Session]:
    """The session at work; whoever wants what it holds to be durable flushes it within the block."""
    async with asyncio.TaskGroup() as group:
        work = group.create_task(session.run())
        yield session
        session.stop()
        await work
    await session.end()


@asynccontextmanager
async def session_in_memory(*, passphrase: str | None = None) -> AsyncIterator[Session]:
    """One of a repository in memory, encrypted where there is a passphrase."""
    store, clock = MemoryStore(), SystemClock()
    await Repository.init(store, passphrase=passphrase, clock=clock, cost=CHEAP)
    with tempfile.TemporaryDirectory() as cache:
        repository = await Repository.open(store, passphrase=passphrase, cache_dir=Path(cache), clock=clock)
        async with running(await repository.open_session(points=[])) as session:
            yield session
        await repository.close()
