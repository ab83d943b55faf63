"""``health``: what the daemon of these settings says of itself, as an exit code.

It runs every minute in a container, so it goes without the HTTP client of the rest, which costs a second to load.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from rich.text import Text

from mover.cli.run import Session
from mover.config import ServeSettings
from mover.errors import DaemonUnwell, UsageError

_PATIENCE_S = 5.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""Where a daemon that listens everywhere is asked."""


async def health(session: Session) -> None:
    """Print the daemon's facts. Raises DaemonUnwell, UsageError."""
    url = health_url(session.settings.serve)
    with ThreadPoolExecutor(1) as thread:
        status, facts = await asyncio.get_running_loop().run_in_executor(thread, _asked, url)
    if status != 200 or not facts.get("ok"):
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


def _asked(url: str) -> tuple[int, dict[str, Any]]:
    # No proxy of the environment stands between a process and its own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_PATIENCE_S) as answer:
            return answer.status, _facts(answer.read())
    except urllib.error.HTTPError as answer:
        return answer.code, _facts(answer.read())
    except OSError as error:
        raise DaemonUnwell(
            f"No daemon answers at {url}: {getattr(error, 'reason', error)}",
            remedy="Start it with mover serve, or name its address with serve.host and serve.port.",
        ) from error


def _facts(body: bytes) -> dict[str, Any]:
    """Empty when something else than a daemon of ours answered."""
    try:
        facts = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _told(facts: dict[str, Any]) -> str:
    told = [f"{name} {value}" for name, value in facts.items() if name != "ok" and value is not None]
    return ", ".join(told) or "it says nothing that mover says"
