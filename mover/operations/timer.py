"""Seconds by phase of one disk, for its row in the report."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from mover.clock import stopwatch

Result = TypeVar("Result")


class Timer:
    """Adds up what each phase took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    async def during(self, phase: str, work: Awaitable[Result]) -> Result:
        started = stopwatch()
        try:
            return await work
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + stopwatch() - started
