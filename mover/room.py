"""The state folder must take what is noted there: a job does not begin, or go on, when it does not.

What it says of a folder or a database that cannot be used stands here, for all who keep one there.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from mover.errors import ConfigError, StateDamaged, StateFull
from mover.units import MIB, format_size

STATE_LEAST_BYTES = 16 * MIB
"""Below it nothing begins or goes on: each of two databases writes 4 MiB beside its file before it takes them in."""
_PAGE = bytes(4096)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the process or machine lacks for a moment says nothing about the folder."""
_GOES_ON = "Jobs that were running then go on with the next backup or restore, or mover serve."


def trouble_of(state_dir: Path) -> StateFull | StateDamaged | None:
    """The error of a state folder that takes no more: without room, or it refuses a page that is tried. Blocks."""
    try:
        free = shutil.disk_usage(state_dir).free
        if free >= STATE_LEAST_BYTES:
            with tempfile.TemporaryFile(dir=state_dir, buffering=0) as trial:
                trial.write(_PAGE)
            return None
    except OSError as error:
        return _refused(state_dir, error)
    least = format_size(STATE_LEAST_BYTES)
    return StateFull(
        f"The state folder {state_dir} is full: {format_size(free)} free, {least} are needed",
        remedy=f"Make room there. {_GOES_ON}",
        retryable=True,
    )


def _refused(state_dir: Path, error: OSError) -> StateFull | StateDamaged | None:
    """Free bytes are not all: a quota, inodes, a file system that became read-only."""
    if error.errno in _OURS:
        return None
    if error.errno in _FULL:
        return StateFull(
            f"The state folder {state_dir} takes nothing more: {error.strerror}",
            remedy=f"Look at its quota and its inodes (df -i), and make room. {_GOES_ON}",
            retryable=True,
        )
    return StateDamaged(
        f"The state folder {state_dir} cannot be written: {error.strerror}",
        remedy=f"Look at its rights, its file system and the kernel's log. {_GOES_ON}",
        retryable=True,
    )


def make_folder(state_dir: Path) -> None:
    """For this user alone, where it is not there yet. Raises ConfigError."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise unfit(state_dir, error) from error


def unfit(state_dir: Path, error: OSError) -> ConfigError:
    """A state folder that this user cannot use at all."""
    return ConfigError(
        f"The state folder {state_dir} cannot be used: {error.strerror}",
        remedy="Set state_dir (or MOVER_STATE_DIR) to a folder that this user may write.",
    )


def require_room(state_dir: Path) -> None:
    """Raises StateFull, StateDamaged; a folder that is not there yet is left to whoever makes it."""
    if state_dir.is_dir() and (trouble := trouble_of(state_dir)):
        raise trouble


def driver_error(error: BaseException) -> sqlite3.DatabaseError | None:
    """What a database's driver said of its file, if that is what this is."""
    # Libraries pass it on inside an exception of their own.
    cause: Any = getattr(error, "orig", None) or error
    # Neither a broken constraint nor a wrong statement: those are ours.
    return cause if type(cause) in (sqlite3.OperationalError, sqlite3.DatabaseError) else None


def trouble_by(state_dir: Path, error: BaseException) -> StateFull | StateDamaged | None:
    """In words, what a database's driver said while the folder was in use; None where it is none of its errors."""
    cause = driver_error(error)
    if cause is None:
        return None
    return trouble_of(state_dir) or StateDamaged(
        f"The state folder {state_dir} cannot be used any more: {cause}",
        remedy="Look at its file system and the kernel's log; what ran goes on at the next start.",
        # Of damage in a file the next start says which file it is; waiting mends nothing.
        retryable=isinstance(cause, sqlite3.OperationalError),
    )


def unusable(path: Path, name: str, lost: str, error: sqlite3.DatabaseError) -> StateFull | StateDamaged:
    """What a database's driver said, in words. lost: what to do once its file is moved away, and what that costs."""
    if trouble := trouble_of(path.parent):
        return trouble
    if isinstance(error, sqlite3.OperationalError):
        return StateDamaged(
            f"{name} {path} cannot be used: {error}",
            remedy="Look at the rights of its folder and the free space there; then run the command again.",
            file=str(path),
        )
    return StateDamaged(
        f"{name} {path} is damaged: {' '.join(str(error).split())}",
        remedy=f"Move it away (mv {path} {path}.damaged), with -wal and -shm beside it, and run {lost}",
        file=str(path),
    )
