"""A repository's writing session over the length of a job: opened when first needed, resumed after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover import logs
from mover.errors import MoverError
from mover.jobs.steps import first_of
from mover.operations.ports import Repository, WriteSession
from mover.operations.reading import end_session

_LOG = logs.get(__name__)


class Writing:
    """Gives out the one session. ``open`` is a step's work: its result, the id, lets a later run resume."""

    def __init__(self, repository: Repository, point: tuple[str, str], group: asyncio.TaskGroup) -> None:
        self._repository = repository
        self._point = point
        self._group = group
        self._lock = asyncio.Lock()
        self._id: str | None = None
        self._session: WriteSession | None = None
        self._running: asyncio.Task[None] | None = None

    async def open(self) -> str:
        """Open it; its id."""
        return (await self.get()).id

    def resume(self, session_id: str) -> None:
        """This is the job's session; it is opened again only if something needs it."""
        self._id = session_id

    async def get(self) -> WriteSession:
        """The open session, its uploads and heartbeats running. Raises SessionVoided."""
        async with self._lock:
            if self._session is None:
                session: WriteSession = await self._repository.open_session(points=[self._point], session_id=self._id)
                self._running = self._group.create_task(session.run())
                self._session = session
            return self._session

    async def stop(self) -> None:
        """End uploads and heartbeats; the session itself stays to be resumed."""
        if self._session is not None and self._running is not None:
            self._session.stop()
            await asyncio.wait([self._running])

    async def end(self) -> None:
        """It is over: nobody will resume it."""
        if self._session is not None:
            await end_session(self._session)


@asynccontextmanager
async def writing(repository: Repository, point: tuple[str, str]) -> AsyncIterator[Writing]:
    """The session of a job's point. Ended with the block, by success or error; a stop leaves it to be resumed.

    What befalls the session after the block has succeeded changes nothing: the point is committed.
    """
    holder: Writing | None = None
    has_succeeded = False
    try:
        async with asyncio.TaskGroup() as group:
            holder = Writing(repository, point, group)
            yield holder
            has_succeeded = True
            await holder.stop()
    except BaseExceptionGroup as errors:
        first = first_of(errors)
        if holder is not None and isinstance(first, Exception):
            await holder.end()
        if has_succeeded and isinstance(first, MoverError):
            _LOG.warning("the session broke off after its work was done", error=first.message)
            return
        raise first from None
    await holder.end()
