"""``health``: what the daemon of these settings says of itself, as an exit code."""

from __future__ import annotations

from typing import Any

import aiohttp
from rich.text import Text

from mover.cli.run import Session
from mover.config import ServeSettings
from mover.errors import DaemonUnwell, UsageError

_PATIENCE_S = 5.0
_ANY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""Where a daemon that listens everywhere is asked."""


async def health(session: Session) -> None:
    """Print the daemon's facts. Raises DaemonUnwell, UsageError."""
    url = health_url(session.settings.serve)
    status, facts = await _asked(url)
    if status != 200:
        raise DaemonUnwell(
            f"The daemon at {url} is not well: {_told(facts)}",
            remedy="See its log; mover check says what of the node, Prism or the store is wrong.",
            status=status,
        )
    session.console.answer(facts, Text(f"well: {_told(facts)}"))


def health_url(serve: ServeSettings) -> str:
    """Where the daemon of these settings answers. Raises UsageError for a port that only it knows."""
    if serve.port == 0:
        raise UsageError("serve.port is 0: the daemon's port is not known", remedy="Set serve.port to a fixed one.")
    host = _ANY_ADDRESS.get(serve.host, serve.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{serve.port}/healthz"


async def _asked(url: str) -> tuple[int, dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as client, client.get(url) as answer:
            facts = await answer.json()
            return answer.status, facts if isinstance(facts, dict) else {}
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise DaemonUnwell(
            f"No daemon answers at {url}: {error or 'not in time'}",
            remedy="Start it with mover serve, or name its address with serve.host and serve.port.",
        ) from error


def _told(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if name != "ok" and value is not None)
