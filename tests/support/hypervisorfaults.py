"""Faults of the hypervisor in memory: which call breaks, and how."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mover.errors import EffectUnknown, HypervisorUnreachable, MoverError

CHANGES = {
    "snapshot",
    "extend_snapshot",
    "delete_snapshot",
    "attach",
    "detach",
    "create_vm",
    "finish_vm",
    "delete_vm",
    "set_power",
}
_LATE_CALLS = 2


class How(enum.Enum):
    ERROR = "error before effect"
    EFFECT_THEN_ERROR = "effect, then error"
    TIME_OUT = "no effect, and nobody knows"
    LATE_EFFECT = "nobody knows, and the effect comes two calls later, or with ripen()"


@dataclass
class Fault:
    """Armed for the nth call of that name (None: of all)."""

    call: str | None
    nth: int
    how: How
    error: MoverError | None
    seen: int = 0

    def answer(self, name: str) -> MoverError:
        """What the caller of ``name`` gets of it."""
        if self.error is not None:
            return self.error
        message = f"fault: {name}: {self.how.value}"
        if self.how is How.ERROR or name not in CHANGES:
            return HypervisorUnreachable(message, remedy="This is a test's own fault; run again.")
        return EffectUnknown(message, remedy="This is a test's own fault; look.")


@dataclass
class _Late:
    calls_left: int
    effect: Callable[[], Any]


class Faults:
    """Those that wait for their call, and effects that come late."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []
        self._late: list[_Late] = []

    def arm(self, call: str | None, nth: int, how: How, error: MoverError | None) -> None:
        self._armed.append(Fault(call, nth, how, error))

    def met(self, name: str) -> Fault | None:
        """The fault that this call meets."""
        for fault in list(self._armed):
            if fault.call in (None, name):
                fault.seen += 1
                if fault.seen == fault.nth:
                    self._armed.remove(fault)
                    return fault
        return None

    def delay(self, effect: Callable[[], Any]) -> None:
        self._late.append(_Late(_LATE_CALLS, effect))

    def age(self) -> None:
        """One more call: what was late enough happens."""
        for late in list(self._late):
            late.calls_left -= 1
            if late.calls_left < 0:
                self._late.remove(late)
                _unread(late.effect)

    def ripen(self) -> None:
        """All that is late happens."""
        late, self._late = self._late, []
        for each in late:
            _unread(each.effect)


def _unread(effect: Callable[[], Any]) -> None:
    try:
        effect()
    except MoverError:
        return
