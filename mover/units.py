"""Sizes, rates and durations as people write and read them."""

from __future__ import annotations

import re

from mover.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?\s*$", re.IGNORECASE)
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?\s*$", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_size(text: str | int) -> int:
    """``"1 MiB"``, ``"32m"``, ``4096`` → bytes. Units are binary; ``MB`` means MiB too."""
    if isinstance(text, int):
        return text
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a size", remedy="Write a size such as 512KiB, 32MiB or 4GiB.")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


def parse_duration(text: str | float) -> float:
    """``"90s"``, ``"5m"``, ``"2h"``, ``"7d"``, ``30`` → seconds."""
    if isinstance(text, int | float):
        return float(text)
    match = _DURATION.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a duration", remedy="Write a duration such as 30s, 5m, 2h or 7d.")
    return float(match[1]) * _SECONDS[(match[2] or "s").lower()]


def format_size(size_bytes: float) -> str:
    """Bytes → at most seven characters: ``"1.5 GiB"``."""
    value, unit = float(size_bytes), 0
    while abs(value) >= 999.5 and unit < 5:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return f"{value:.0f} B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {'KMGTP'[unit - 1]}iB"


def format_rate(bytes_per_s: float) -> str:
    """Bytes a second → ``"930 MB/s"``, decimal as networks and disks are sold."""
    if bytes_per_s >= 999_500_000:
        return f"{bytes_per_s / 1e9:.2f} GB/s"
    return f"{bytes_per_s / 1e6:.{0 if bytes_per_s >= 10e6 else 1}f} MB/s"


def format_duration(seconds: float) -> str:
    """Seconds → ``"0.4 s"``, ``"42 s"``, ``"3:05"``, ``"2:03:04"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def align_down(value: int, step: int) -> int:
    """The largest multiple of ``step`` that is not above ``value``."""
    return value - value % step


def align_up(value: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step
