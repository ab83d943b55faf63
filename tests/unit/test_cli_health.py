"""``mover health``: what the daemon says becomes an exit code."""

from __future__ import annotations

import json

import pytest
from aiohttp import web

from mover.api.server import Health, serving
from mover.cli.console import Console
from mover.cli.health import health, health_url
from mover.cli.run import Session
from mover.config import ServeSettings, Settings
from mover.errors import DaemonUnwell, UsageError
from tests.support.commandline import invoke


def session(url: str) -> Session:
    host, _, port = url.removeprefix("http://").rpartition(":")
    settings = Settings.model_validate({"serve": {"host": host.strip("[]"), "port": int(port)}})
    return Session(settings, Console(as_json=True))


async def test_a_daemon_that_is_well_is_told(capsys):
    async with serving(ServeSettings(port=0), lambda: Health(True, {"reconciled_s_ago": 1.5})) as url:
        await health(session(url))
    assert json.loads(capsys.readouterr().out) == {"ok": True, "reconciled_s_ago": 1.5}


async def test_a_daemon_that_is_not_well_fails_with_its_reason():
    async with serving(ServeSettings(port=0), lambda: Health(False, {"problem": "no Prism"})) as url:
        with pytest.raises(DaemonUnwell, match="problem no Prism") as caught:
            await health(session(url))
    assert caught.value.exit_code == 7


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch, capsys):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(ServeSettings(port=0), lambda: Health(True, {})) as url:
        await health(session(url))
    assert json.loads(capsys.readouterr().out)["ok"]


async def test_something_else_on_the_port_is_no_daemon():
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>welcome</html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/healthz", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        with pytest.raises(DaemonUnwell, match="nothing that mover says"):
            await health(session(f"http://{host}:{port}"))
    finally:
        await runner.cleanup()


def test_no_daemon_is_said_with_its_address_and_remedy():
    # Port 9 (discard) belongs to nobody here: a daemon's own ports are above 1023.
    done = invoke("health", "-s", "serve.port=9", MOVER_STATE_DIR="/nonexistent")
    done.refuses(7, "job.daemon", "127.0.0.1:9", "mover serve")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9464/healthz"),
        ("0.0.0.0", "http://127.0.0.1:9464/healthz"),
        ("::", "http://[::1]:9464/healthz"),
        ("fd00::7", "http://[fd00::7]:9464/healthz"),
        ("node7", "http://node7:9464/healthz"),
    ],
)
def test_where_a_daemon_is_asked(host, url):
    assert health_url(ServeSettings(host=host)) == url


def test_a_port_that_only_the_daemon_knows_cannot_be_asked():
    with pytest.raises(UsageError, match=r"serve\.port is 0"):
        health_url(ServeSettings(port=0))
