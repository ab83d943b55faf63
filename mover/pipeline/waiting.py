"""How long threads have waited, those included that wait still: a wait without end must show."""

from __future__ import annotations

from mover.clock import stopwatch


class Waiting:
    """Of any number of threads. Used under its owner's lock."""

    __slots__ = ("_since", "_total_s", "now")

    def __init__(self) -> None:
        self.now = 0
        """How many wait at this time."""
        self._total_s = 0.0
        self._since = 0.0

    def enter(self) -> None:
        self._add_up()
        self.now += 1

    def leave(self) -> None:
        self._add_up()
        self.now -= 1

    def seconds(self) -> float:
        """So far; never less than before."""
        self._add_up()
        return self._total_s

    def _add_up(self) -> None:
        now = stopwatch()
        self._total_s += self.now * (now - self._since)
        self._since = now
