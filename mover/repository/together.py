"""Several questions to a store side by side, few at a time; the first error ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


async def side_by_side(
    ask: Callable[[_Item], Awaitable[_Answer]], items: Sequence[_Item], *, at_once: int
) -> list[_Answer]:
    """The answers, in order of the items. Raises the first error, when all the others have ended."""
    answers: dict[int, _Answer] = {}
    waiting = iter(enumerate(items))

    async def work() -> None:
        for at, item in waiting:
            answers[at] = await ask(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
    return [answers[at] for at in range(len(items))]


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """First wins."""
    error = errors.exceptions[0]
    return first_of(error) if isinstance(error, BaseExceptionGroup) else error
