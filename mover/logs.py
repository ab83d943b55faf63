"""Structured logs on standard error: who (job, VM, disk), what, and never a secret.

``bind`` puts job, VM and disk on every line of the calling task and its children.
Libraries that log through ``logging`` come out in the same form.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

import structlog

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
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _masker(secrets),
    ]
    render = structlog.dev.ConsoleRenderer(colors=False) if as_text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=render, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    usual = "info" if is_daemon else "warning"
    root.setLevel((usual if settings.level == "auto" else settings.level).upper())


def get(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; the name is the module's."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


def bind(**context: str) -> AbstractContextManager[None]:
    """Put ``job``, ``vm``, ``disk`` on every line inside the ``with`` block, tasks included."""
    return structlog.contextvars.bound_contextvars(**context)


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
