"""The daemon's HTTP face: ``/metrics`` for Prometheus, ``/healthz`` for whoever restarts it.

Health is what was last seen, with its age; the server never asks a Prism or a store by itself.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from mover.api.exposition import Exposition
from mover.config import ServeSettings
from mover.errors import UsageError
from mover.metrics import REGISTRY


@dataclass(frozen=True, slots=True)
class Health:
    """What ``/healthz`` answers: 200 when ok, 503 otherwise."""

    ok: bool
    facts: dict[str, Any]


HealthSource = Callable[[], Health]

ROUTES = {
    "/metrics": "Every instrument, in the text format of Prometheus.",
    "/healthz": "200 and facts while the executor runs and reconciles, 503 otherwise.",
}
"""Path → what it gives; the README names each."""


def build(health: HealthSource) -> web.Application:
    """The application, without a port."""
    exposition = Exposition(REGISTRY)
    # Ten thousand lines take longer than the loop may be held.
    thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    async def metrics(_: web.Request) -> web.Response:
        body = await asyncio.get_running_loop().run_in_executor(thread, exposition.text)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        seen = health()
        body = orjson.dumps({"ok": seen.ok, **seen.facts})
        return web.Response(body=body, status=200 if seen.ok else 503, content_type="application/json")

    async def end(_: web.Application) -> None:
        thread.shutdown(wait=False)

    app = web.Application()
    app.on_cleanup.append(end)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    return app


@asynccontextmanager
async def serving(settings: ServeSettings, health: HealthSource) -> AsyncIterator[str]:
    """Listen for the length of the block; yields the base URL. Raises UsageError for an address it cannot have."""
    runner = web.AppRunner(build(health), access_log=None)
    await runner.setup()
    try:
        yield await _listen(runner, settings)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: ServeSettings) -> str:
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except (OSError, UnicodeError) as error:
        raise _refused(error, settings) from None
    return f"http://{_joined(*runner.addresses[0][:2])}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refused(error: OSError | UnicodeError, settings: ServeSettings) -> UsageError:
    """UnicodeError: a name that cannot be one, as with two dots in a row."""
    where = _joined(settings.host, settings.port)
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return UsageError(
            f"serve.host {settings.host!r} is no address and no name that resolves",
            remedy="Set serve.host (or --host) to an address of this machine; 0.0.0.0 listens on all.",
        )
    match error.errno:
        case errno.EADDRINUSE:
            return UsageError(
                f"{where} is in use, perhaps by another mover serve",
                remedy="Choose another with serve.port (or --port), or stop what listens there.",
            )
        case errno.EADDRNOTAVAIL:
            return UsageError(
                f"{settings.host} is not an address of this machine",
                remedy="Set serve.host (or --host) to one of those that `ip address` shows; 0.0.0.0 listens on all.",
            )
        case errno.EACCES:
            return UsageError(
                f"{where} may not be opened by this user",
                remedy="Choose a serve.port (or --port) above 1023, or grant CAP_NET_BIND_SERVICE.",
            )
        case _:
            return UsageError(
                f"{where} cannot be opened: {error.strerror or error}",
                remedy="Set serve.host and serve.port (or --host, --port) to where this machine can listen.",
            )
