"""What an operation sees of durability: steps that run once, and a way to be asked to stop.

An operation is a plain async function of JSON-able values. It is run again from its top
after a crash: finished steps give their recorded result, the one that was cut off runs
anew. So what is not in a step must be repeatable, and a step must be ready to find its
own half-done work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from mover.errors import JobCancelled

Result = TypeVar("Result")
Values = dict[str, Any]
"""JSON-able: what goes into and comes out of jobs and steps."""


class Cancellation:
    """A wish to end a job in order. Looked at before each step and during long waits."""

    def __init__(self) -> None:
        self._wished = asyncio.Event()

    def wish(self) -> None:
        self._wished.set()

    @property
    def is_wished(self) -> bool:
        return self._wished.is_set()

    def check(self) -> None:
        """Raises JobCancelled when the wish was made."""
        if self.is_wished:
            raise _cancelled()

    async def unless(self, work: Awaitable[Result]) -> Result:
        """Await ``work``, which is local and can be broken off; raises JobCancelled if wished before its end."""
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._raise_when_wished())
                result = await work
                watching.cancel()
        except BaseExceptionGroup as errors:
            raise first_of(errors) from None
        return result

    async def _raise_when_wished(self) -> None:
        await self._wished.wait()
        raise _cancelled()


def _cancelled() -> JobCancelled:
    return JobCancelled("The job was cancelled", remedy="Run it again when wanted; what it stored is reused.")


@dataclass(frozen=True, slots=True)
class Call:
    """One step to be run beside others."""

    name: str
    function: Callable[..., Awaitable[Any]]
    arguments: tuple[Any, ...] = ()


class Steps(Protocol):
    """The durable side of one running job."""

    @property
    def job_id(self) -> str:
        """Sixteen hexadecimal digits; the same over restarts and repeated attempts."""

    @property
    def cancellation(self) -> Cancellation: ...

    async def step(self, name: str, function: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
        """Run once, record the result (or error) durably; give the recorded one when run again."""

    async def together(self, calls: Sequence[Call]) -> list[Any]:
        """Steps side by side, results in order. The first error ends the others and is raised itself."""


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a TaskGroup's group stands for: its first one, which cancelled the rest."""
    first = errors.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


Operation = Callable[[Mapping[str, Any], Steps], Awaitable[Values]]


@dataclass(slots=True)
class FirstError:
    """Turns the group that a TaskGroup raises into the error that came first."""

    error: BaseException | None = field(default=None)

    async def guard(self, work: Awaitable[Result]) -> Result:
        try:
            return await work
        except Exception as error:
            self.error = self.error or error
            raise


async def side_by_side(works: Sequence[Awaitable[Result]]) -> list[Result]:
    """Await all; the first error cancels the others and is raised as itself, not in a group."""
    first = FirstError()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(first.guard(work)) for work in works]
    except BaseExceptionGroup:
        if first.error is not None:
            raise first.error from None
        raise
    return [task.result() for task in tasks]
