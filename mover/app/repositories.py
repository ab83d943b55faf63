"""The repository of the settings, whole: for jobs and for whoever reads blocks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover.app.stores import cache_dir, store
from mover.clock import Clock
from mover.config import Settings
from mover.pipeline.flow import Budget
from mover.repository.repository import Repository
from mover.storage.health import StoreMetrics


@asynccontextmanager
async def repository(settings: Settings, clock: Clock, budget: Budget | None = None) -> AsyncIterator[Repository]:
    """The repository, opened with the passphrase of the settings; packs are paid from the budget."""
    wanted = settings.repository
    budget = budget or make_budget(settings)
    async with store(settings, clock, watch=StoreMetrics()) as opened:
        found = await Repository.open(
            opened,
            passphrase=wanted.passphrase.get_secret_value() or None,
            cache_dir=cache_dir(settings),
            clock=clock,
            pack_bytes=wanted.pack_size,
            uploads=wanted.uploads,
            paranoid=wanted.paranoid,
            level=settings.data.level,
            heartbeat_s=wanted.heartbeat,
            reserve=budget.reserve_pack,
            release=budget.release_pack,
        )
        try:
            yield found
        finally:
            await found.close()


def make_budget(settings: Settings) -> Budget:
    """The bound of memory of this process."""
    return Budget(settings.data.budget)
