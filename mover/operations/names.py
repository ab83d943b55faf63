"""Names of what we make on a cluster: whose it is can be read from them, and nothing else is ever ours.

``mover-<install 8>-<node 8>-<job 16>-<kind>``, at most 64 characters. The install id is made
once per state folder; another install's things, even on the same Proxy VM, are not ours.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from mover.clock import secret_bytes

PREFIX = "mover"
NAME_MAX = 64
INSTALL_FILE = "install-id"
_OURS = re.compile(
    rf"{PREFIX}-(?P<install>[0-9a-f]{{8}})-(?P<node>[a-z0-9]{{1,8}})-(?P<job>[0-9a-f]{{16}})-(?P<kind>.+)"
)


def install_id(state_dir: Path) -> str:
    """Eight hexadecimal digits, made at the first call and kept for ever."""
    path = state_dir / INSTALL_FILE
    if not path.exists():
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = state_dir / f".{INSTALL_FILE}.{os.getpid()}"
        fresh.write_text(secret_bytes(4).hex() + "\n")
        # Linked, not renamed: of two that begin at once, the first one's stays.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_text().strip()


def node_part(name: str) -> str:
    """A node's name as a part of ours: up to eight letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())[:8] or "node"


def name_of(*, install: str, node: str, job: str, kind: str) -> str:
    """The name of one thing. kind: a word, with a number where a job has several."""
    name = f"{PREFIX}-{install}-{node_part(node)}-{job}-{kind}"
    if len(name) > NAME_MAX:
        raise ValueError(f"{name!r} is longer than {NAME_MAX} characters")
    return name


def prefix_of(install: str) -> str:
    """What all names of an install begin with."""
    return f"{PREFIX}-{install}-"


def job_of(name: str, install: str) -> str | None:
    """The job that a name belongs to; None if it is not a name of this install."""
    match = _OURS.fullmatch(name)
    return match["job"] if match and match["install"] == install else None
