"""Bytes and trees that look like a server's: logs, database pages, programs, pictures. Seeded, fast.

Compresses by zstd to about 1 : 5 (logs), 1 : 3 (pages, programs) and 1 : 1 (pictures).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mover.units import KIB, MIB

PAGE_BYTES = 8192
_ROW_BYTES = 128
_LINE = b"2026-01-01T00:00:00.000Z 10.000.000.000 GET /shop/item/000000?ref=00000000 HTTP/1.1 200 00000 0.000 node-00\n"
_WORDS = b"invoice customer pending shipped article account payment refund street london berlin warsaw madrid".split()

_Maker = Callable[[Generator, int], bytes]


def dice_for(*seed: object) -> Generator:
    """Dice that repeat with their words."""
    return np.random.default_rng([int.from_bytes(str(part).encode(), "big") % (1 << 62) for part in seed])


def log_text(dice: Generator, size_bytes: int) -> bytes:
    """Access-log lines."""
    template = np.frombuffer(_LINE, np.uint8)
    lines = np.tile(template, (size_bytes // len(_LINE) + 1, 1))
    digits = np.flatnonzero((template >= ord("0")) & (template <= ord("9")))[8:]
    digits = digits[digits < len(_LINE) - 10]
    chosen = digits[dice.permutation(len(digits))[: len(digits) // 2]]
    lines[:, chosen] = ord("0") + _random(dice, (len(lines), len(chosen))) % 10
    return lines.tobytes()[:size_bytes]


def pages(dice: Generator, size_bytes: int) -> bytes:
    """Database pages of 8 KiB: a header that never repeats, rows half words and half numbers, free space."""
    count = -(-size_bytes // PAGE_BYTES)
    rows = np.zeros((count, PAGE_BYTES // _ROW_BYTES, _ROW_BYTES), np.uint8)
    words = np.zeros((len(_WORDS), 16), np.uint8)
    for at, word in enumerate(_WORDS):
        words[at, : len(word)] = np.frombuffer(word, np.uint8)
    used = PAGE_BYTES // _ROW_BYTES * 3 // 4
    picks = _random(dice, (count, used, 4)) % len(words)
    rows[:, :used, 32:96] = words[picks].reshape(count, used, 64)
    rows[:, :used, :24] = _random(dice, (count, used, 24))
    return rows.tobytes()[:size_bytes]


def _random(dice: Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(dice.bytes(math.prod(shape)), np.uint8).reshape(shape)


def picture(dice: Generator, size_bytes: int) -> bytes:
    """Nothing that compresses."""
    return dice.bytes(size_bytes)


@cache
def _programs() -> tuple[Path, ...]:
    """Files of the Python that runs us: machine code and source."""
    found = []
    for folder, folders, names in os.walk(Path(os.__file__).parent):  # lib, or RHEL's lib64
        folders[:] = [name for name in folders if name not in {"site-packages", "dist-packages", "__pycache__"}]
        found += [Path(folder, name) for name in names if name.endswith((".py", ".so"))]
    # Small ones cost an open each.
    files = [path for path in found if path.is_file()]  # Debian leaves links there that lead nowhere
    return tuple(sorted(path for path in files if path.stat().st_size >= 32 * KIB)) or (Path(__file__),)


def program(dice: Generator, size_bytes: int) -> bytes:
    """Real machine code and source text of this machine, joined to the size wanted."""
    parts, missing = [], size_bytes
    while missing > 0:
        piece = _programs()[int(dice.integers(len(_programs())))].read_bytes()[:missing]
        parts.append(piece or b"#")
        missing -= len(parts[-1])
    return b"".join(parts)[:size_bytes]


def web_tree(dice: Generator, content_bytes: int) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of a web server: many small files, some large."""
    yield from _small_files(dice, "etc/app.d", content_bytes // 100)
    yield from _files(dice, "usr/lib/app/lib{:04}.so", content_bytes * 35 // 100, 256 * KIB, program)
    yield from _files(dice, "srv/uploads/{:05}.jpg", content_bytes * 22 // 100, 128 * KIB, picture)
    yield from _files(dice, "var/log/access-{:03}.log", content_bytes * 32 // 100, 8 * MIB, log_text)
    yield from _files(dice, "var/lib/db/sessions-{:02}", content_bytes * 10 // 100, 8 * MIB, pages)


def database_tree(dice: Generator, content_bytes: int) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of a database server: few large files."""
    yield from _small_files(dice, "etc/db.d", content_bytes // 200)
    yield from _files(dice, "var/lib/db/table-{:03}", content_bytes * 64 // 100, 16 * MIB, pages)
    yield from _files(dice, "var/lib/db/wal-{:03}", content_bytes * 12 // 100, 4 * MIB, picture)
    yield from _files(dice, "usr/lib/db/lib{:04}.so", content_bytes * 18 // 100, 512 * KIB, program)
    yield from _files(dice, "var/log/db-{:03}.log", content_bytes * 5 // 100, 4 * MIB, log_text)


def share_tree(dice: Generator, content_bytes: int) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of a file server's system disk."""
    yield from _files(dice, "srv/uploads/{:05}.pdf", content_bytes * 30 // 100, 64 * KIB, picture)
    yield from _files(dice, "usr/lib/share/{:04}.bin", content_bytes * 45 // 100, 128 * KIB, program)
    yield from _files(dice, "var/log/share-{:03}.log", content_bytes * 20 // 100, 2 * MIB, log_text)
    yield from _files(dice, "var/lib/db/index-{:02}", content_bytes * 5 // 100, 1 * MIB, pages)


def _small_files(dice: Generator, folder: str, total_bytes: int) -> Iterator[tuple[str, bytes]]:
    for number in range(min(400, max(4, total_bytes // 2048))):
        yield f"{folder}/{number:03}.conf", log_text(dice, int(dice.integers(1, 4096)))


def _files(
    dice: Generator, pattern: str, total_bytes: int, usual_bytes: int, make: _Maker
) -> Iterator[tuple[str, bytes]]:
    """Files of half to one and a half times the usual size, at least two."""
    usual_bytes = max(4096, min(usual_bytes, total_bytes // 2))
    number = 0
    while total_bytes > 0:
        size = min(total_bytes, int(dice.integers(usual_bytes // 2, usual_bytes * 3 // 2)))
        yield pattern.format(number), make(dice, size)
        total_bytes -= size
        number += 1
