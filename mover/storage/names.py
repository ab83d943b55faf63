"""What an object may be called, and the order in which listings come."""

from __future__ import annotations

import re

from mover.storage.protocol import Bytes

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_NAME = re.compile(rf"{_PART.pattern}(/{_PART.pattern})*")
_PREFIX = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)*([A-Za-z0-9_-][A-Za-z0-9._-]*)?")


def check_name(name: str) -> str:
    """The name itself. ValueError for what no store takes: dots in front, empty parts, odd characters."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a name of an object")
    return name


def check_prefix(prefix: str) -> str:
    """The prefix itself: the beginning of a name, possibly empty. ValueError otherwise."""
    if _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"{prefix!r} is not the beginning of a name")
    return prefix


def is_part(text: str) -> bool:
    """Whether it can stand between two slashes of a name."""
    return _PART.fullmatch(text) is not None


def octets(part: Bytes) -> memoryview:
    """The part as a flat view of bytes, whatever it was made of."""
    view = memoryview(part)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
