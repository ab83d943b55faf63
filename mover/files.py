"""A file is whole under its name, or not there: settings, results of a bench, notes on a repository."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Durable under its name only when complete, with the rights that a former file had, else 0644.

    A link is not followed. Raises OSError, and leaves nothing then.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            _like(file.name, path)
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:  # Ctrl-C too: no half file stays; raised again
            Path(file.name).unlink(missing_ok=True)
            raise


def _like(name: str, path: Path) -> None:
    if not path.exists():
        os.chmod(name, 0o644)
        return
    shutil.copymode(path, name)
    # Another's file becomes ours where we are not root: its rights stay.
    with suppress(PermissionError):
        os.chown(name, path.stat().st_uid, path.stat().st_gid)
