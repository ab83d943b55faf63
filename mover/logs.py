"""Structured logs on standard error: who (job, VM, disk), what, and never a secret.

``bind`` puts job, VM and disk on every line of the calling task and its children.
Libraries that log through ``logging`` come out in the same form. structlog gives lines their
form; it is imported for the first one, since its import takes longer than a short command.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, TextIO

from mover.config import LogSettings

_SECRET_KEY = re.compile(r"pass(word|phrase)|secret|token|authorization|cookie|credential|access_key$", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"(?i)\b(basic|bearer)\s+[A-Za-z0-9+/=._-]{6,}|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
MASK = "***"


def configure(
    settings: LogSettings,
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    is_daemon: bool = False,
) -> None:
    """Set up logging for this process. secrets: values that must never show, wherever they stand."""
    out = stream or sys.stderr
    as_text = settings.format == "text" or (settings.format == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Form(tuple(secrets), as_text=as_text))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    usual = "info" if is_daemon else "warning"
    root.setLevel((usual if settings.level == "auto" else settings.level).upper())


class Log:
    """A module's logger: a line is what happened, and fields."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self._write(logging.ERROR, event, fields, exc_info=True)

    def _write(self, level: int, event: str, fields: dict[str, Any], *, exc_info: bool = False) -> None:
        self._logger.log(level, {**fields, "event": event}, exc_info=exc_info)


def get(name: str) -> Log:
    """A logger; the name is the module's."""
    return Log(name)


def bind(**context: str) -> AbstractContextManager[None]:
    """Put ``job``, ``vm``, ``disk`` on every line inside the ``with`` block, tasks included."""
    import structlog  # see the module: who binds runs a job

    return structlog.contextvars.bound_contextvars(**context)


class _Form(logging.Formatter):
    """structlog's, made with the first line. The handler's lock is held, so it is made once."""

    def __init__(self, secrets: Iterable[str], *, as_text: bool) -> None:
        super().__init__()
        self._secrets, self._as_text = secrets, as_text

    def format(self, record: logging.LogRecord) -> str:
        return self._made.format(record)

    @cached_property
    def _made(self) -> logging.Formatter:
        import structlog  # see the module

        render = structlog.dev.ConsoleRenderer(colors=False) if self._as_text else structlog.processors.JSONRenderer()
        return structlog.stdlib.ProcessorFormatter(
            processor=render,
            foreign_pre_chain=[
                _unfolded,
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                _masker(self._secrets),
            ],
        )


def _unfolded(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The fields of a line of ours; a library's line is its text alone."""
    said = event["_record"].msg
    return {**said, **event, "event": said["event"]} if isinstance(said, dict) and "event" in said else event


def _masker(secrets: Iterable[str]) -> Any:
    values = sorted((value for value in secrets if len(value) >= 4), key=len, reverse=True)

    def mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            event[key] = MASK if _SECRET_KEY.search(key) else _masked(value, values)
        return event

    return mask


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return _SECRET_TEXT.sub(MASK, value)
    if isinstance(value, dict):
        return {key: MASK if _SECRET_KEY.search(str(key)) else _masked(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, secrets) for item in value]
    return value
