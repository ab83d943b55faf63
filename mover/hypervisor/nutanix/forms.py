"""The forms of an attach's body, of which a Prism may take only some: tried in turn, and the good one remembered."""

from __future__ import annotations

from dataclasses import dataclass

from mover.model.machine import CloneSource, EmptyDisk

Source = CloneSource | EmptyDisk


@dataclass(frozen=True, slots=True)
class Form:
    """What stands beside a clone's source in an attach: the interface's own text leaves it open."""

    with_container: bool = False
    with_bus: bool = False
    """device_bus inside the source's address too: scripts that are known to work on real clusters send it."""


_FORMS = (Form(), Form(with_container=True), Form(with_bus=True), Form(with_container=True, with_bus=True))


@dataclass(slots=True)
class Shapes:
    """Which form of a snapshot clone's body this Prism takes; learnt from its refusals."""

    best: Form = _FORMS[0]

    def candidates(self, source: Source) -> tuple[Form, ...]:
        """The form that worked last comes first."""
        if isinstance(source, EmptyDisk):
            return _FORMS[:1]
        if source.vmdisk_uuid:
            return _FORMS[:2]
        return (self.best, *(form for form in _FORMS if form != self.best))

    def learn(self, source: Source, form: Form) -> None:
        if isinstance(source, CloneSource) and source.path:
            self.best = form
