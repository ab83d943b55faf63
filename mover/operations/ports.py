"""What operations need of a repository, cut to their use. ``mover.repository`` fulfils it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mover.model.point import DiskImage, PointSummary, RestorePoint
from mover.pipeline.ports import BlockReader, BlockWriter, MapReader
from mover.storage.protocol import Store


class WriteSession(BlockWriter, Protocol):
    """A writer: nothing that it may reuse is collected while it lives."""

    @property
    def id(self) -> str: ...

    async def open_map(self, image: DiskImage) -> MapReader: ...

    async def leans_on_suspects(self, image: DiskImage) -> bool:
        """Whether a former image needs packs that are marked as damaged."""

    async def flush(self) -> None:
        """All that was stored is durable and can be found again."""

    async def commit(self, point: RestorePoint) -> None:
        """All durable, then the manifest. Idempotent for one session. Raises PointConflict, SessionVoided."""

    async def end(self) -> None: ...

    async def run(self) -> None:
        """Uploads and heartbeats, until ``stop``."""

    def stop(self) -> None: ...


class ReadingSession(BlockReader, Protocol):
    """A reader: nothing that its points need is collected while it lives."""

    async def end(self) -> None: ...

    async def run(self) -> None:
        """Heartbeats, until ``stop``."""

    def stop(self) -> None: ...


class Repository(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def store(self) -> Store: ...

    async def points(self, vm_uuid: str | None = None) -> list[PointSummary]: ...

    async def find_point(self, text: str) -> PointSummary: ...

    async def load(self, point: PointSummary | str) -> RestorePoint: ...

    async def delete_point(self, point_id: str, *, force: bool = False) -> None: ...

    async def open_session(self, *, points: Sequence[tuple[str, str]], session_id: str | None = None) -> Any:
        """A WriteSession; the same id again resumes it."""

    async def open_reader(self) -> Any:
        """A ReadingSession."""

    async def check(self, point: RestorePoint | None = None) -> Any:
        """Everything but the blocks: ``problems``, each with ``object`` and ``what``. Of one point, or of all."""

    async def repair(
        self,
        point: RestorePoint | None = None,
        *,
        read_data: bool = False,
        plan: Callable[[int], None],
        advance: Callable[[int], None],
    ) -> Any:
        """Mark what is damaged, mend the index, delete nothing: a ``Repaired``."""
