"""The store and the repository of the settings: all that reading needs, and nothing heavier."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover.clock import Clock
from mover.config import Settings
from mover.errors import ConfigError
from mover.pipeline.flow import Budget
from mover.repository.repository import Repository
from mover.storage.protocol import Store
from mover.storage.stack import open_store


@asynccontextmanager
async def store(settings: Settings, clock: Clock, *, create: bool = False) -> AsyncIterator[Store]:
    """The repository's store, whether it holds a repository or not."""
    if not settings.repository.url:
        raise ConfigError(
            "repository.url is not set",
            remedy="Write a folder or s3://bucket/prefix to mover.yaml, or use --repository.",
        )
    opened = await open_store(settings.repository.url, settings.repository.store, clock=clock, create=create)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def repository(settings: Settings, clock: Clock, budget: Budget | None = None) -> AsyncIterator[Repository]:
    """The repository, opened with the passphrase of the settings; packs are paid from the budget."""
    wanted = settings.repository
    budget = budget or make_budget(settings)
    async with store(settings, clock) as opened:
        found = await Repository.open(
            opened,
            passphrase=wanted.passphrase.get_secret_value() or None,
            cache_dir=wanted.cache_dir or settings.state_dir / "cache",
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
