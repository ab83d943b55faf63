"""The forms of an attach's body, of which a Prism may take only some: tried in turn, and the good one remembered.

And whether a disk came from the source that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from mover.model.machine import CloneSource, Disk, EmptyDisk

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


def is_from(disk: Disk, source: Source) -> bool:
    """The disk provably came from this source."""
    if isinstance(source, EmptyDisk):
        has_source = disk.source_path or disk.source_vmdisk_uuid
        return not has_source and (disk.size_bytes, disk.container_uuid) == (source.size_bytes, source.container_uuid)
    if source.path:
        return disk.source_path == source.path
    return disk.source_vmdisk_uuid == source.vmdisk_uuid


def contradicts(disk: Disk, source: Source) -> bool:
    """The disk shows a source, and it is another one. (A build may show none: that is no contradiction.)"""
    if isinstance(source, EmptyDisk):
        return disk.size_bytes != source.size_bytes
    if source.path:
        return disk.source_path is not None and disk.source_path != source.path
    return disk.source_vmdisk_uuid is not None and disk.source_vmdisk_uuid != source.vmdisk_uuid
