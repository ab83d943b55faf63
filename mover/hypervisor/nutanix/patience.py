"""How long to bear with a Prism that answers 429, 503, HTML or nothing: one budget for all calls.

And how long with a VM that somebody else's task keeps busy, or an object that somebody else changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mover.clock import Clock
from mover.errors import Conflict, HypervisorError
from mover.hypervisor.nutanix.wire import ExchangeFailed
from mover.hypervisor.protocol import BUSY_WITHIN_S

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0
# A 500 is a bug of the other side more often than a passing trouble; an address where nobody
# has ever answered, or only with pages for browsers, is wrong more often than restarting.
_TRIES_AT_500 = 3
_TRIES_AT_FIRST_CONTACT = 3
_NOBODY_THERE = {"dns", "connect", "tls", "html", "redirect"}
_FIRST_BUSY_PAUSE_S = 2.0
_LONGEST_BUSY_PAUSE_S = 30.0
_TRIES_AT_CONFLICT = 5
_FIRST_CONFLICT_PAUSE_S = 0.5

T = TypeVar("T")


async def past_conflicts(clock: Clock, change: Callable[[], Awaitable[T]]) -> T:
    """What ``change`` gives, begun anew while somebody else changes the object meanwhile. Raises the last Conflict.

    A change that depends on what the object is reads it itself: each try then sees it as it is by now.
    """
    for attempt in range(_TRIES_AT_CONFLICT - 1):
        try:
            return await change()
        except Conflict:
            await clock.sleep(_FIRST_CONFLICT_PAUSE_S * 2**attempt)
    return await change()


class Patience:
    """Shared by all calls to one Prism: once it has failed for the whole budget, nobody waits anew."""

    def __init__(self, clock: Clock, *, budget_s: float) -> None:
        self.clock, self.budget_s = clock, budget_s
        self.has_answered = False
        self._failing_since: float | None = None
        self._last_failure = 0.0

    @property
    def is_well(self) -> bool:
        return self.has_answered and self._failing_since is None

    def effort(self, budget_s: float | None = None) -> Effort:
        """The account of one call, with a budget of its own where it is less than all calls' together."""
        return Effort(self, self.budget_s if budget_s is None else min(budget_s, self.budget_s))

    def succeeded(self) -> None:
        self.has_answered = True
        self._failing_since = None

    def failing_for_s(self, now: float) -> float:
        """How long all calls have been failing by now; long silence begins a new count."""
        if self._failing_since is None or now - self._last_failure > self.budget_s:
            self._failing_since = now
        self._last_failure = now
        return now - self._failing_since


class Effort:
    """One call's repetitions."""

    def __init__(self, patience: Patience, budget_s: float) -> None:
        self._patience, self._budget_s = patience, budget_s
        self._begun = patience.clock.monotonic()
        self._tries = 0

    def next_wait(self, failure: ExchangeFailed) -> float | None:
        """Seconds to wait before the next try (exponential, jittered), or None: give up."""
        self._tries += 1
        now = self._patience.clock.monotonic()
        spent_s = max(now - self._begun, self._patience.failing_for_s(now))
        if self._is_hopeless(failure) or spent_s >= self._budget_s:
            return None
        ceiling: float = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._tries - 1, 10))
        jittered = ceiling * (0.5 + 0.5 * self._patience.clock.random().random())
        return max(failure.wait_s, min(jittered, self._budget_s - spent_s))

    def _is_hopeless(self, failure: ExchangeFailed) -> bool:
        if failure.reason == "500":
            return self._tries >= _TRIES_AT_500
        never_reached = failure.reason in _NOBODY_THERE and not self._patience.has_answered
        return never_reached and self._tries >= _TRIES_AT_FIRST_CONTACT


class BusyWait:
    """One change of a VM that is busy: a deadline, and growing pauses before it is asked for again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline = clock.monotonic() + BUSY_WITHIN_S
        self._pause_s = _FIRST_BUSY_PAUSE_S

    @property
    def is_over(self) -> bool:
        return self._clock.monotonic() > self._deadline

    async def once(self, busy: HypervisorError, *, then: str) -> None:
        """Wait before the next try; where none is left, raise ``busy`` with its remedy (fact ``is_still_busy``)."""
        if self._clock.monotonic() + self._pause_s > self._deadline:
            busy.remedy = (
                f"The VM has been busy for {BUSY_WITHIN_S / 60:.0f} minutes: wait until its migration or other task "
                f"has ended (Prism shows it under Tasks), then {then}."
            )
            busy.facts["is_still_busy"] = True
            raise busy
        await self._clock.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_BUSY_PAUSE_S)
