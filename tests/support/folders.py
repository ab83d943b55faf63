"""Folders that tests look into."""

from __future__ import annotations

from pathlib import Path


def files(folder: Path) -> list[str]:
    """Every file below, temporaries included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
