"""Calls on a thread that nobody waits for, neither a stop nor the interpreter's end: a folder may hang (a dead NFS)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def aside(call: Callable[[], T]) -> T | None:
    """What the call gives or raises; None where no thread is to be had."""
    answered: Future[T] = Future()
    answered.set_running_or_notify_cancel()

    def ask() -> None:
        try:
            answered.set_result(call())
        except BaseException as error:  # a thread's last frame: whoever awaits the answer hears of it
            answered.set_exception(error)

    try:
        threading.Thread(target=ask, name="state-folder", daemon=True).start()
    except RuntimeError:
        return None
    return await asyncio.wrap_future(answered)
