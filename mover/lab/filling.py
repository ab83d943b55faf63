"""First content and later changes of disks without a file system: seeded, quick, full of holes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mover.lab.options import DiskSpec

_CHUNK = 1 << 20
_PIECE = 64 << 10


def fill(path: Path, spec: DiskSpec, seed: int) -> None:
    """The first content of a disk."""
    if spec.content == "mixed":
        fill_mixed(path, seed)
    elif spec.content == "random":
        path.write_bytes(_random(str(seed), spec.size_bytes))


def change(paths: list[Path], seed: int, turn: int) -> list[str]:
    """One ordinary day of a guest with these disks; says in words what changed."""
    for path in paths:
        change_mixed(path, seed, turn)
    return [f"{path.stem}: pieces of 64 KiB" for path in paths]


def fill_mixed(path: Path, seed: int) -> None:
    """Per MiB in turn: seeded random bytes, nothing, written zeroes, text that compresses."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for number in range(-(-size // _CHUNK)):
            length = min(_CHUNK, size - number * _CHUNK) // 2
            if number % 4 == 0:
                piece = _random(f"{seed}/{number}", length)
            elif number % 4 == 2:
                piece = bytes(length)
            elif number % 4 == 3:
                piece = (f"line {seed} {number}\n".encode() * length)[:length]
            else:
                continue
            os.pwrite(file.fileno(), piece, number * _CHUNK)


def change_mixed(path: Path, seed: int, turn: int) -> None:
    """In every fourth MiB one piece of 64 KiB: new bytes, or zeroes where there were bytes."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        for number in range(0, -(-size // _CHUNK), 4):
            at = number * _CHUNK + (turn % 8) * _PIECE
            length = min(_PIECE, size - at)
            if length > 0:
                zero = number // 4 % 3 == 2
                os.pwrite(file.fileno(), bytes(length) if zero else _random(f"{seed}/{turn}/{number}", length), at)


def _random(words: str, length: int) -> bytes:
    return hashlib.shake_128(words.encode()).digest(length)
