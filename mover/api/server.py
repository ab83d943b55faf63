"""The daemon's HTTP face: ``/metrics`` for Prometheus, ``/healthz`` for whoever restarts it.

Health is what was last seen, with its age; the server never asks a Prism or a store by itself.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

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

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        seen = health()
        body = orjson.dumps({"ok": seen.ok, **seen.facts})
        return web.Response(body=body, status=200 if seen.ok else 503, content_type="application/json")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", healthz)
    return app


@asynccontextmanager
async def serving(settings: ServeSettings, health: HealthSource) -> AsyncIterator[str]:
    """Listen for the length of the block; yields the base URL. Raises UsageError for a port in use."""
    runner = web.AppRunner(build(health), access_log=None)
    await runner.setup()
    try:
        yield await _listen(runner, settings)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: ServeSettings) -> str:
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be opened: {error.strerror}"
        raise UsageError(
            f"{settings.host}:{settings.port} {why}",
            remedy="Choose another with serve.port (or --port), or stop what listens there.",
        ) from None
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"
