"""Lenient reading of Prism's JSON: what is absent, null or of another type reads as empty.

Real answers omit optional members, and builds differ; a parser that insists breaks on
the next version. What must not be missing is checked by the caller, in its own words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def dig(value: Any, *path: str) -> Any:
    """The member at the end of the path, or None."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def text(value: Any, *path: str) -> str:
    """A string; numbers are written out, everything else is empty."""
    found = dig(value, *path)
    if isinstance(found, str):
        return found
    return str(found) if isinstance(found, int | float) and not isinstance(found, bool) else ""


def word(value: Any, *path: str) -> str:
    """A word of an enumeration in upper case; some builds let the inner name through: kError for ERROR."""
    found = text(value, *path)
    return (found[1:] if found[:1] == "k" and found[1:2].isupper() else found).upper()


def uuid(value: Any, *path: str) -> str:
    """A UUID in lower case, or empty."""
    return text(value, *path).lower()


def number(value: Any, *path: str) -> int:
    """A whole number; v2 writes some of them as strings. 0 when absent."""
    found = dig(value, *path)
    if isinstance(found, bool):
        return 0
    if isinstance(found, int | float):
        return int(found)
    if isinstance(found, str) and found.strip().lstrip("-").isdigit():
        return int(found)
    return 0


def flag(value: Any, *path: str) -> bool:
    """True only for JSON's true."""
    return dig(value, *path) is True


def members(value: Any, *path: str) -> Json:
    """An object, or an empty one."""
    found = dig(value, *path)
    return found if isinstance(found, Mapping) else {}


def items(value: Any, *path: str) -> Sequence[Json]:
    """The objects of a list; whatever else it holds is left out."""
    found = dig(value, *path)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def without_nulls(value: Any) -> Any:
    """The same without members that are null: what an answer may hold, a v3 request must not."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def strings(value: Any, *path: str) -> tuple[str, ...]:
    """The strings of a list, or of the single string that some builds write instead."""
    found = dig(value, *path)
    if isinstance(found, str):
        return (found,)
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()
