"""An engine that runs jobs in a folder, and the book of them, as the tests of both use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from mover.clock import SystemClock
from mover.jobs.book import JobBook
from mover.jobs.engine import Engine

CLOCK = SystemClock()


def running(folder: Path, **operations: Any) -> AbstractAsyncContextManager[Engine]:
    """An engine with these operations, two jobs side by side."""
    return Engine.running(folder, operations, side_by_side=2, clock=CLOCK)


@asynccontextmanager
async def opened_book(folder: Path) -> AsyncIterator[JobBook]:
    """Closed at the end."""
    book = JobBook(folder, clock=CLOCK)
    try:
        yield book
    finally:
        await book.close()
