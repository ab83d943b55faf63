"""Loop devices for tests: fresh high numbers, real direct I/O, always taken away again."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_loops = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="loop devices need root"),
]
_ADD, _REMOVE = 0x4C80, 0x4C81
_FIRST = 5000


@contextmanager
def loop(backing: Path, *, sector_bytes: int = 512, writable: bool = True) -> Iterator[Path]:
    """``/dev/loopN`` over a file, N never used before by anybody alive."""
    with open("/dev/loop-control", "rb+", buffering=0) as control:
        number = _fresh_number(control.fileno())
        device = Path(f"/dev/loop{number}")
        try:
            _set_up(device, backing, sector_bytes, writable)
            yield device
        finally:
            subprocess.run(["losetup", "-d", str(device)], check=False, capture_output=True)
            fcntl.ioctl(control, _REMOVE, number)


def _fresh_number(control: int) -> int:
    """LOOP_CTL_ADD refuses a number that exists: what it grants is ours alone."""
    for number in itertools.count(_FIRST + os.getpid() % 4000):
        try:
            fcntl.ioctl(control, _ADD, number)
        except FileExistsError:
            continue
        return number
    raise AssertionError("unreachable: numbers do not end")


def _set_up(device: Path, backing: Path, sector_bytes: int, writable: bool) -> None:
    options = ["--direct-io=on", f"--sector-size={sector_bytes}", *([] if writable else ["--read-only"])]
    subprocess.run(["losetup", *options, str(device), str(backing)], check=True, capture_output=True)
