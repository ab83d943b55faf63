"""Threads of a test, started at once."""

from __future__ import annotations

import threading


def spawn(*works) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads
