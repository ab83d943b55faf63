"""The daemon's HTTP face."""

import aiohttp
import pytest
from pydantic import ValidationError

from mover import metrics
from mover.api.server import ROUTES, Health, build, serving
from mover.config import ServeSettings
from mover.errors import UsageError


async def test_metrics_and_health_answer():
    health = [Health(True, {"executor": "running"})]
    metrics.JOBS.labels("backup", "test-api").inc()
    async with serving(ServeSettings(port=0), lambda: health[0]) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert 'mover_jobs_total{operation="backup",outcome="test-api"} 1.0' in await answer.text()
        async with session.get(f"{url}/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ok": True, "executor": "running"})
        health[0] = Health(False, {"executor": "stopped"})
        async with session.get(f"{url}/healthz") as answer:
            assert (answer.status, (await answer.json())["ok"]) == (503, False)


async def test_a_port_in_use_is_said_with_a_remedy():
    async with serving(ServeSettings(port=0), lambda: Health(True, {})) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(UsageError, match="in use") as caught:
            async with serving(ServeSettings(port=port), lambda: Health(True, {})):
                pass
    assert "serve.port" in caught.value.remedy


@pytest.mark.parametrize(
    ("host", "words", "remedy"),
    [
        ("no such node", "no name that resolves", "serve.host (or --host)"),
        ("a..b", "no name that resolves", "serve.host (or --host)"),
        ("x" * 64, "no name that resolves", "serve.host (or --host)"),
        ("203.0.113.7", "203.0.113.7 is not an address of this machine", "serve.host (or --host)"),
    ],
)
async def test_a_host_that_this_machine_cannot_be_is_said_with_a_remedy(host, words, remedy):
    with pytest.raises(UsageError, match=words) as caught:
        async with serving(ServeSettings(host=host, port=0), lambda: Health(True, {})):
            pass
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 2


def test_an_empty_host_is_refused_since_it_would_be_every_address():
    with pytest.raises(ValidationError, match="at least 1 character"):
        ServeSettings(host="")


def test_every_route_is_described():
    app = build(lambda: Health(True, {}))
    assert {route.resource.canonical for route in app.router.routes()} == set(ROUTES)
