"""What the sessions of one repository share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from mover.clock import Clock
from mover.repository.codec import Codecs
from mover.repository.index import IndexObject, LocalIndex
from mover.repository.keys import Secrets
from mover.repository.packer import Packer
from mover.storage.protocol import Store

_Result = TypeVar("_Result")


class OffLoop(Protocol):
    """Runs what takes milliseconds on the repository's helper thread."""

    async def __call__(self, work: Callable[[], _Result]) -> _Result: ...


class Tools(NamedTuple):
    """What a session shares with the others of its repository."""

    store: Store
    secrets: Secrets
    clock: Clock
    codecs: Codecs
    local_index: LocalIndex
    packer: Packer
    install: Callable[[IndexObject], Awaitable[None]]
    """Take a new index object into the local cache."""
    off_loop: OffLoop
    scratch_dir: Path
    uploads: int
    heartbeat_s: float
