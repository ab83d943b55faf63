"""Room in the state folder: what is noted there must not end in the middle of a job."""

from __future__ import annotations

import shutil
from pathlib import Path

from mover.errors import StateFull
from mover.units import MIB, format_size

STATE_LEAST_BYTES = 16 * MIB
"""Below it nothing begins or goes on: each of two databases writes 4 MiB beside its file before it takes them in."""


def full(state_dir: Path) -> StateFull | None:
    """The error of a state folder whose file system has no room for what is to be noted there."""
    free = shutil.disk_usage(state_dir).free
    if free >= STATE_LEAST_BYTES:
        return None
    return StateFull(
        f"The state folder {state_dir} is full: {format_size(free)} free, {format_size(STATE_LEAST_BYTES)} are needed",
        remedy="Make room there. Jobs that were running then go on with the next backup or restore, or mover serve.",
        retryable=True,
    )


def require_room(state_dir: Path) -> None:
    """Raises StateFull; a folder that is not there yet is left to whoever makes it."""
    if state_dir.is_dir() and (short := full(state_dir)):
        raise short
