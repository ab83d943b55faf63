"""Folders that tests look into, and small file systems that they fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_mounts = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
]


def files(folder: Path) -> list[str]:
    """Every file below, temporaries included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextmanager
def small(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, made with the options of mount. Needs root."""
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)
    try:
        yield folder
    finally:
        if folder.is_mount():
            run("umount", "-l", folder)


def run(*command: str | Path) -> None:
    """Raises CalledProcessError."""
    subprocess.run([str(word) for word in command], check=True)
