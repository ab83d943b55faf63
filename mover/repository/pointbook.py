"""The book of restore points: an opened repository as far as its manifests.

It knows no pack, index or session, so a command that only looks at points loads neither numpy
nor a local index.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mover.errors import Damaged, NoSuchPoint, ObjectMissing, PointPinned
from mover.model.point import PointSummary, RestorePoint
from mover.repository import layout, points
from mover.repository.keys import Secrets
from mover.repository.manifest import open_manifest
from mover.repository.opening import enter, nothing
from mover.storage.protocol import Store


class PointBook:
    """Lists, finds, loads and forgets points. Used on one loop; the store stays the caller's."""

    def __init__(self, store: Store, secrets: Secrets, lines: points.Lines | None = None) -> None:
        """lines: what was read before is not read again for its life; None: everything is, each time."""
        self._store, self._secrets, self._lines = store, secrets, lines

    @classmethod
    async def open(
        cls, store: Store, *, passphrase: str | None, cache_dir: Path, meanwhile: Callable[[], object] = nothing
    ) -> PointBook:
        """meanwhile: done once the key is being derived, which takes a third of a second of another thread.

        Raises RepositoryMissing, WrongKey, FormatUnsupported, Damaged, StorageError."""
        helper = ThreadPoolExecutor(1, "mover-keys")
        try:
            opened = await enter(store, passphrase=passphrase, cache_dir=cache_dir, helper=helper, meanwhile=meanwhile)
        finally:
            helper.shutdown(wait=False)
        return cls(store, opened.secrets)

    async def points(self, vm_uuid: str | None = None) -> list[PointSummary]:
        """Newest last. A damaged manifest is listed, with its ``problem``."""
        return await points.list_points(self._store, self._secrets, vm_uuid, lines=self._lines)

    async def find_point(self, text: str) -> PointSummary:
        """By full id, the beginning of one, VM name, or ``name@latest``. Raises NoSuchPoint, AmbiguousName, Damaged."""
        return await points.find_point(self._store, self._secrets, text)

    async def load(self, point: PointSummary | str) -> RestorePoint:
        """The whole manifest; a text is looked up as ``find_point`` does. Raises Damaged, NoSuchPoint."""
        found = await self.find_point(point) if isinstance(point, str) else point
        name = layout.point_name(found.vm_uuid, found.id)
        try:
            stored = await self._store.get(name)
        except ObjectMissing:
            raise NoSuchPoint(
                f"Restore point {found.id} was deleted meanwhile", remedy="List the points again.", text=found.id
            ) from None
        try:
            return open_manifest(self._secrets, name, stored)
        except Damaged:
            if self._lines:
                self._lines.forget(name)
            raise

    async def delete_point(self, point_id: str, *, force: bool = False) -> None:
        """Forget a point (full id); its blocks go with the next collection.

        Raises NoSuchPoint; PointPinned when it is the base of its VM's next incremental, unless ``force``.
        """
        known = await self.points()
        found = next((point for point in known if point.id == point_id), None)
        if found is None:
            raise NoSuchPoint(f"There is no restore point {point_id}", remedy="List them with mover points.")
        bases = [point for point in known if point.vm_uuid == found.vm_uuid and point.is_base]
        if found.is_base and bases[-1] is found and not force:
            raise PointPinned(
                f"{point_id} is the base of the next incremental of {found.vm_name}",
                remedy="Delete an older point, or use --force: the next backup then reads the disks in full.",
                point=point_id,
            )
        await self._store.delete(layout.point_name(found.vm_uuid, found.id))
