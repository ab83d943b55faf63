"""Model values ↔ what a durable step may keep: plain JSON."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from mover.jobs.steps import Values

Model = TypeVar("Model")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def dump(value: object) -> Values:
    """A model dataclass without bytes → JSON-able values."""
    kind: Any = type(value)
    return cast(Values, _adapter(kind).dump_python(value, mode="json"))


def load(kind: type[Model], values: Any) -> Model:
    """What ``dump`` gave → the same value."""
    wanted: Any = kind
    return cast(Model, _adapter(wanted).validate_python(values))
