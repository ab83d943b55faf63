"""The store of the settings, and the points in it: what commands that only look need, and nothing heavier."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mover.clock import Clock
from mover.config import Settings
from mover.errors import ConfigError
from mover.repository.opening import nothing
from mover.repository.pointbook import PointBook
from mover.storage.protocol import Store
from mover.storage.stack import open_store
from mover.storage.watch import StoreWatch


@asynccontextmanager
async def store(
    settings: Settings, clock: Clock, *, create: bool = False, watch: StoreWatch | None = None
) -> AsyncIterator[Store]:
    """The repository's store, whether it holds a repository or not. watch: who is told of requests."""
    if not settings.repository.url:
        raise ConfigError(
            "repository.url is not set",
            remedy="Write a folder or s3://bucket/prefix to mover.yaml, or use --repository.",
        )
    wanted = settings.repository
    opened = await open_store(wanted.url, wanted.store, clock=clock, create=create, watch=watch)
    try:
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def point_book(
    settings: Settings, clock: Clock, *, meanwhile: Callable[[], object] = nothing
) -> AsyncIterator[PointBook]:
    """The repository's points, opened with the passphrase of the settings. meanwhile: see ``PointBook.open``."""
    async with store(settings, clock) as opened:
        yield await PointBook.open(
            opened,
            passphrase=settings.repository.passphrase.get_secret_value() or None,
            cache_dir=cache_dir(settings),
            meanwhile=meanwhile,
        )


def cache_dir(settings: Settings) -> Path:
    """Where this machine keeps what it knows of repositories."""
    return settings.repository.cache_dir or settings.state_dir / "cache"
