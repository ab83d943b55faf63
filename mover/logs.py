"""Structured logs on standard error: who (job, VM, disk), what, and never a secret.

``bind`` puts job, VM and disk on every line of the calling task and its children.
Libraries that log through ``logging`` come out in the same form. structlog gives lines their
form; it is imported for the first one, since its import takes longer than a short command.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import Any, TextIO
from urllib.parse import quote

from mover.config import LogSettings

_SECRET_KEY = re.compile(r"pass(word|phrase)|secret|token|authorization|cookie|credential|access_key$", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"(?i)\b(basic|bearer)\s+[A-Za-z0-9+/=._-]{6,}|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
_SECRET_NAMED = re.compile(
    r"((?:pass(?:word|phrase)|secret|token|authorization|cookie|credential|access_key)\\?['\"]?\s*[:=]\s*b?)"
    r"(\\?['\"])(?:\\.|(?!\2).)*\2",
    re.IGNORECASE | re.DOTALL,
)
"""``password='…'`` as things show themselves, ``"token": "…"`` as JSON does."""
_OURS = {"_record", "_from_structlog"}
_DEEPEST = 12
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
    handler = _Handler(out)
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
        self._logger.log(level, _Fields(fields, event=event), exc_info=exc_info)


def get(name: str) -> Log:
    """A logger; the name is the module's."""
    return Log(name)


def bind(**context: str) -> AbstractContextManager[None]:
    """Put ``job``, ``vm``, ``disk`` on every line inside the ``with`` block, tasks included."""
    import structlog  # see the module: who binds runs a job

    return structlog.contextvars.bound_contextvars(**context)


class _Fields(dict[str, Any]):
    """What a line says. ``logging`` asks each for its text, which may cost much or fail: nobody needs it."""

    def __str__(self) -> str:
        return str(self["event"])


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 # logging gave the name
        """A line that cannot be made is named, not shown as logging would: it may hold a secret."""
        with suppress(OSError, ValueError):
            self.stream.write(f"A log line of {record.name} cannot be written: {record.filename}:{record.lineno}\n")


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
    return {**said, **event, "event": said["event"]} if isinstance(said, _Fields) else event


def _masker(secrets: Iterable[str]) -> Any:
    shown = _Masked(secrets)

    def mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            if key not in _OURS:
                event[key] = MASK if _SECRET_KEY.search(key) else shown(value)
        return event

    return mask


class _Masked:
    """A value as a line may show it: numbers, text, lists and dicts, with no secret in any of them.

    What is none of these is shown by its ``repr``, so all is text before it is looked through.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {spelling for secret in secrets if len(secret) >= 4 for spelling in _spellings(secret)}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._secret = re.compile("|".join(map(re.escape, longest_first))) if spellings else None

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return MASK if self._secret and self._secret.search(str(value)) else value
        if depth < _DEEPEST and isinstance(value, dict):
            return {
                self._key(key): MASK if _SECRET_KEY.search(_words(key)) else self(item, depth + 1)
                for key, item in value.items()
            }
        if depth < _DEEPEST and isinstance(value, list | tuple):
            return [self(item, depth + 1) for item in value]
        if depth < _DEEPEST and isinstance(value, set | frozenset):
            return sorted((self(item, depth + 1) for item in value), key=str)
        return self._text(_words(value))

    def _key(self, key: Any) -> Any:
        return self(key if isinstance(key, int | float | None) else _words(key))

    def _text(self, text: str) -> str:
        if self._secret:
            text = self._secret.sub(MASK, text)
        return _SECRET_TEXT.sub(MASK, _SECRET_NAMED.sub(rf"\1\2{MASK}\2", text))


def _words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode(errors="backslashreplace")
    try:
        return repr(value)
    except Exception as error:  # a line must not be lost for what somebody's __repr__ does
        return f"{type(value).__name__} that cannot be shown: {type(error).__name__}"


_ESCAPES: tuple[Callable[[str], str], ...] = (
    lambda text: repr('"' + text)[2:-1],
    lambda text: repr("'" + text)[2:-1],
    lambda text: repr(b'"' + text.encode())[3:-1],
    lambda text: repr(b"'" + text.encode())[3:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: quote(text, safe=""),
    quote,
)
"""How text changes inside of a ``repr``, JSON or a URL. Which quotes a ``repr`` escapes hangs on what stands beside."""


def _spellings(secret: str) -> set[str]:
    once = {secret, *(escape(secret) for escape in _ESCAPES)}
    return once | {escape(spelling) for spelling in once for escape in _ESCAPES}
