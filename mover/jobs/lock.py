"""One executor per state folder: whoever holds the lock of ``executor.lock``.

The lock is the kernel's and ends with its holder, so a lock that is free proves that the
former executor is dead. Everybody else is a client.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from mover.errors import StateFolderBusy
from mover.room import make_folder, unfit

LOCK_NAME = "executor.lock"


@contextlib.contextmanager
def executor_lock(state_dir: Path) -> Iterator[None]:
    """Be the executor for the length of the block. Raises StateFolderBusy, ConfigError (folder unusable)."""
    path = state_dir / LOCK_NAME
    make_folder(state_dir)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unfit(state_dir, error) from error
    try:
        _take(descriptor, state_dir)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def executor_pid(state_dir: Path) -> int | None:
    """The process id of the executor now running on this folder, None when there is none."""
    try:
        descriptor = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode().strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(descriptor)
    return None


def _take(descriptor: int, state_dir: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
        raise StateFolderBusy(
            f"Process {pid} already runs jobs for the state folder {state_dir}",
            remedy="Let it finish or stop it; or use another state folder: --set state_dir=FOLDER.",
            retryable=True,
            pid=pid,
        ) from None
