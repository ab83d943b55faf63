"""A repository's reading session over the length of a job: what its point needs is not collected meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover import logs
from mover.errors import MoverError
from mover.jobs.steps import first_of
from mover.operations.ports import ReadingSession, Repository, WriteSession

_LOG = logs.get(__name__)


class Reading:
    """Gives out the one session, opened when first needed."""

    def __init__(self, repository: Repository, group: asyncio.TaskGroup) -> None:
        self._repository = repository
        self._group = group
        self._lock = asyncio.Lock()
        self._session: ReadingSession | None = None

    async def get(self) -> ReadingSession:
        """The open session, its heartbeats running."""
        async with self._lock:
            if self._session is None:
                session: ReadingSession = await self._repository.open_reader()
                self._group.create_task(session.run())
                self._session = session
            return self._session

    def stop(self) -> None:
        if self._session is not None:
            self._session.stop()

    async def end(self) -> None:
        """It is over."""
        if self._session is not None:
            await end_session(self._session)


async def end_session(session: ReadingSession | WriteSession) -> None:
    """What the store answers to the end of a session changes nothing."""
    try:
        await session.end()
    except MoverError as error:
        _LOG.warning("the session's object stays behind", error=error.message)


@asynccontextmanager
async def reading(repository: Repository) -> AsyncIterator[Reading]:
    """A reader for the length of the block."""
    holder: Reading | None = None
    try:
        async with asyncio.TaskGroup() as group:
            holder = Reading(repository, group)
            yield holder
            holder.stop()
    except BaseExceptionGroup as errors:
        if holder is not None:
            await holder.end()
        raise first_of(errors) from None
    await holder.end()
