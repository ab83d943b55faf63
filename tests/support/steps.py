"""The direct door: operations without a durable engine, their values checked to be JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mover.jobs.steps import Call, Cancellation, side_by_side


class DirectSteps:
    """``Steps`` in memory. Give it to a second run to continue: finished steps are not run again."""

    def __init__(self, job_id: str = "0123456789abcdef") -> None:
        self.job_id = job_id
        self.cancellation = Cancellation()
        self.results: dict[str, Any] = {}
        self.ran: list[str] = []

    async def step(self, name: str, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        if name in self.results:
            return self.results[name]
        self.cancellation.check()
        self.ran.append(name)
        self.results[name] = json.loads(json.dumps(await function(*arguments)))
        return self.results[name]

    async def together(self, calls: Sequence[Call]) -> list[Any]:
        return await side_by_side([self.step(call.name, call.function, *call.arguments) for call in calls])
