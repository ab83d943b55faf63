"""What is left of loop devices: one that udev looks at in that moment goes when udev is through."""

from __future__ import annotations

from pathlib import Path

from mover.clock import pause, stopwatch
from mover.lab import loops

_PATIENCE_S = 20.0


def none_left(folder: Path) -> bool:
    """Whether no loop device has a file below the folder, or none has soon."""
    started = stopwatch()
    while loops.below(folder):
        if stopwatch() - started > _PATIENCE_S:
            return False
        pause(0.02)
    return True
