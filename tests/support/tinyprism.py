"""A Prism of a few dozen lines: real HTTPS and cookies, canned state, scripted answers.

For tests of what is said on the wire. The lab is the strict one, and the judge.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from mover.clock import FakeClock
from mover.config import PrismSettings
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.session import Session

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]
MIB = 1 << 20
CLUSTER = "00061111-aaaa-4bbb-8ccc-000000000001"
CONTAINER = "c83f5d12-6a0e-4b97-a1d4-90e7b2c65f38"
PROXY = "aaaaaaaa-0000-4000-8000-000000000001"
GUEST = "3f6c0a4e-0d55-4b8e-8a5e-0d7f3a1c9b21"
NETWORK = "c1000000-0000-4000-8000-000000000001"


def certificate(*, is_expired: bool = False) -> tuple[bytes, bytes, bytes]:
    """(certificate PEM, key PEM, SHA-256 digest), self-signed for 127.0.0.1; the same at each call."""
    return _certificate(is_expired)


@cache
def _certificate(is_expired: bool) -> tuple[bytes, bytes, bytes]:
    end = datetime.now(UTC) + (timedelta(hours=-1) if is_expired else timedelta(days=2))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tinyprism")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    key_pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return made.public_bytes(serialization.Encoding.PEM), key_pem, made.fingerprint(hashes.SHA256())


def fingerprint() -> str:
    return certificate()[2].hex(":").upper()


@dataclass
class Call:
    """What arrived."""

    method: str
    path: str
    body: Any
    query: dict[str, str]
    basic: bool
    cookie: str


ROUTES = {
    "GET v3/users/me": lambda _match, _call: (200, {"status": {"name": "admin"}}),
    "GET v3/things/(.*)": lambda match, _call: (200, {"thing": match[1]}),
}
"""Whoever only logs in or asks for something at all finds these."""


@dataclass
class TinyPrism:
    """State, the calls so far, and answers waiting for the next matching call."""

    port: int = 0
    password: str = "secret"
    cookies: bool = True
    valid_cookies: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    scripts: list[tuple[re.Pattern[str], Reply, bool]] = field(default_factory=list)
    routes: dict[str, Callable[[re.Match[str], Call], tuple[int, Any]]] = field(default_factory=lambda: dict(ROUTES))
    headers: dict[str, str] = field(default_factory=lambda: {"X-Ntnx-Env": "pe"})
    in_flight: int = 0
    in_flight_peak: int = 0

    def script(self, pattern: str, *replies: Reply, effect_first: bool = False) -> None:
        """The next calls whose ``METHOD api/path`` matches get these replies, in order."""
        for reply in replies:
            self.scripts.append((re.compile(pattern), reply, effect_first))

    def sent(self, pattern: str) -> list[Call]:
        return [call for call in self.calls if re.search(pattern, f"{call.method} {call.path}")]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.in_flight_peak = max(self.in_flight_peak, self.in_flight)
        try:
            return await self._handle(request)
        finally:
            self.in_flight -= 1

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/api/nutanix/").replace("v2.0/", "v2/")
        raw = await request.read()
        auth = request.headers.get("Authorization", "")
        call = Call(
            request.method, path, json.loads(raw) if raw else None, dict(request.query), bool(auth),
            request.cookies.get("JSESSIONID", ""),
        )  # fmt: skip
        self.calls.append(call)
        line = f"{call.method} {path}"
        for index, (pattern, reply, effect_first) in enumerate(self.scripts):
            if pattern.search(line):
                del self.scripts[index]
                if effect_first:
                    self._answer(line, call)
                return await reply(request)
        if not self._may(auth, call.cookie):
            return web.json_response(error(401, "AUTHENTICATION_REQUIRED"), status=401)
        status, body = self._answer(line, call)
        response = web.json_response(body, status=status, headers=self.headers)
        if auth and self.cookies:
            fresh = uuid.uuid4().hex
            self.valid_cookies.add(fresh)
            response.set_cookie("JSESSIONID", fresh, httponly=True)
        return response

    def _may(self, auth: str, cookie: str) -> bool:
        expected = "Basic " + base64.b64encode(f"admin:{self.password}".encode()).decode()
        return auth == expected if auth else cookie in self.valid_cookies

    def _answer(self, line: str, call: Call) -> tuple[int, Any]:
        for pattern, answer in self.routes.items():
            match = re.fullmatch(pattern, line)
            if match:
                return answer(match, call)
        return 404, error(404, "ENTITY_NOT_FOUND", f"nothing at {line}")


def error(code: int, reason: str, message: str = "no") -> dict[str, Any]:
    return {
        "api_version": "3.1",
        "code": code,
        "state": "ERROR",
        "message_list": [{"reason": reason, "message": message}],
    }


def answers(status: int, body: Any = None, **headers: str) -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        written = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(error(status, "SCRIPTED") if body is None else body, status=status, headers=written)

    return reply


def html(status: int = 502) -> Reply:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html><body>Bad Gateway</body></html>", status=status, content_type="text/html")

    return reply


def cut() -> Reply:
    """Half a body, then the connection closes."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"entities": [')
        assert request.transport is not None
        request.transport.close()
        return response

    return reply


def hang_up() -> Reply:
    """The connection closes without a word."""

    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    return reply


def never(until: asyncio.Event) -> Reply:
    """No answer before the event."""

    async def reply(_: web.Request) -> web.StreamResponse:
        await until.wait()
        return web.json_response({})

    return reply


@asynccontextmanager
async def serving(prism: TinyPrism, folder: Path, *, is_expired: bool = False) -> AsyncIterator[TinyPrism]:
    """Serve on a free port of 127.0.0.1 until the block ends. is_expired: its certificate."""
    pem, key, _ = certificate(is_expired=is_expired)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", prism.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    prism.port = runner.addresses[0][1]
    try:
        yield prism
    finally:
        await runner.cleanup()


def settings_for(prism: TinyPrism, **changes: Any) -> PrismSettings:
    chosen: dict[str, Any] = {
        "url": f"https://127.0.0.1:{prism.port}/api/nutanix/v3",
        "username": "admin",
        "password": SecretStr("secret"),
        "fingerprint": fingerprint(),
        "call_timeout": 5.0,
        **changes,
    }
    return PrismSettings(**chosen)


@asynccontextmanager
async def session_with(prism: TinyPrism, folder: Path, **changes: Any) -> AsyncIterator[Session]:
    """A session with a served Prism, on a fake clock."""
    session = Session(
        PrismAddress("127.0.0.1", prism.port), settings_for(prism, **changes), clock=FakeClock(), state_dir=folder
    )
    try:
        yield session
    finally:
        await session.close()
