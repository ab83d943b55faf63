"""One HTTP exchange with a Prism: TLS, time-outs, body; no log-in and no repetition.

Tells apart what matters to the caller: the request never left, or its fate is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import aiohttp
import orjson
from aiohttp.connector import Connection

from mover.clock import stopwatch
from mover.errors import CertificateRejected, HypervisorError, HypervisorUnreachable
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.answers import Answer, read_body
from mover.hypervisor.nutanix.tls import (
    PinnedCertificates,
    Trust,
    look_at_certificate,
    note_certificate,
    rejected,
    written_fingerprint,
)
from mover.metrics import PRISM_CALLS, PRISM_SECONDS

_CONNECT_TIMEOUT_S = 10.0
# A page of changed regions is some MiB; anything far beyond is not an answer of Prism's.
_BODY_LIMIT_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 18

ROOTS = {"v2": "/api/nutanix/v2.0", "v3": "/api/nutanix/v3"}


class Effect(Enum):
    """What a failed exchange can have done."""

    NONE = "none"
    """It never reached Prism."""
    REFUSED = "refused"
    """Prism answered that it did not do it."""
    UNKNOWN = "unknown"
    """It may have been done."""


class ExchangeFailed(Exception):
    """No usable answer; internal to this package. ``error`` is what a user sees in the end."""

    def __init__(self, error: HypervisorError, *, reason: str, effect: Effect, wait_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error, self.reason, self.effect, self.wait_s = error, reason, effect, wait_s
        self.is_last = False
        """Not to be sent again now, however patient the caller is."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call, as often as it may be sent."""

    method: str
    api: str
    """v2 | v3"""
    path: str
    body: Any
    query: Mapping[str, str]
    timeout_s: float
    is_once: bool
    """Not idempotent: never sent again when its fate is unknown."""

    @property
    def what(self) -> str:
        """For messages and logs: no query, no body."""
        return f"{self.method} {self.api}/{self.path}"


class Wire:
    """Connections to one Prism. A change that has no key, and a log-in, get a connection of their own.

    An idle connection that Prism has closed meanwhile would pose as a lost answer. aiohttp repeats a GET, PUT or DELETE
    whose connection closed without an answer, once, new connection or not: on one of its own each is sent once.
    """

    def __init__(self, address: PrismAddress, trust: Trust, *, max_calls: int) -> None:
        self.address = address
        self._trust = trust
        self._pool = _client(_Connector(address, ssl=trust, limit=max_calls))
        self._fresh = _client(_Connector(address, ssl=trust, limit=max_calls, force_close=True), _sent_once)

    async def exchange(self, request: Request, headers: Mapping[str, str]) -> tuple[Answer, dict[str, str]]:
        """Send once. Returns the answer and the cookies that it set ("" = forget).

        Raises ExchangeFailed, CertificateRejected.
        """
        client = self._fresh if request.is_once or "Authorization" in headers else self._pool
        begun = stopwatch()
        status = "error"
        try:
            async with client.request(
                request.method,
                f"{self.address.origin}{ROOTS[request.api]}/{request.path}",
                data=None if request.body is None else orjson.dumps(request.body),
                params=request.query,
                headers={"Accept": "application/json", "Content-Type": "application/json", **headers},
                timeout=aiohttp.ClientTimeout(total=request.timeout_s, sock_connect=_CONNECT_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                parsed, is_json = read_body(await _read(response))
                status = f"{response.status // 100}xx"
                cookies = {name: morsel.value for name, morsel in response.cookies.items()}
                return Answer(response.status, parsed, is_json, response.headers), cookies
        except aiohttp.ServerFingerprintMismatch as error:
            raise self._wrong_pin(error) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise await self._untrusted(error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._failed(error, request.what) from None
        finally:
            PRISM_CALLS.labels(request.api, status).inc()
            PRISM_SECONDS.labels(request.api).observe(stopwatch() - begun)

    async def close(self) -> None:
        await self._pool.close()
        await self._fresh.close()

    def _wrong_pin(self, error: aiohttp.ServerFingerprintMismatch) -> CertificateRejected:
        got = written_fingerprint(error.got)
        return rejected(self.address, why="it is not the pinned one", fingerprint=got, is_pinned=True)

    async def _untrusted(self, error: aiohttp.ClientConnectorCertificateError) -> CertificateRejected:
        why = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
        fingerprint = await look_at_certificate(self.address)
        is_pinned = isinstance(self._trust, PinnedCertificates)
        return rejected(self.address, why=why, fingerprint=fingerprint, is_pinned=is_pinned)

    def _failed(self, error: BaseException, what: str) -> ExchangeFailed:
        reason, effect, said = _classified(error)
        unreachable = HypervisorUnreachable(
            f"{self.address} did not answer {what}: {said}",
            remedy="Check that the address is right and that this node reaches it (TCP, TLS), then try again.",
            host=str(self.address),
            operation=what,
            reason=reason,
        )
        return ExchangeFailed(unreachable, reason=reason, effect=effect)


class _Connector(aiohttp.TCPConnector):
    """Looks at the certificate of each connection that it gives out: an answer may have let go of it already."""

    def __init__(self, address: PrismAddress, **settings: Any) -> None:
        super().__init__(**settings)
        self._address = address
        self._seen = b""

    async def connect(self, *arguments: Any, **named: Any) -> Connection:
        connection = await super().connect(*arguments, **named)
        tls = connection.transport.get_extra_info("ssl_object") if connection.transport else None
        shown = tls.getpeercert(binary_form=True) if tls else None
        if shown and shown != self._seen:
            self._seen = shown
            note_certificate(self._address, shown)
        return connection


def _classified(error: BaseException) -> tuple[str, Effect, str]:
    """(bounded reason, effect, words)."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "dns", Effect.NONE, "its name does not resolve"
        case aiohttp.ClientConnectorSSLError():
            return "tls", Effect.NONE, f"no TLS there ({error.os_error.strerror or error.os_error})"
        case aiohttp.ClientConnectorError():
            return "connect", Effect.NONE, f"no connection ({error.os_error.strerror or error.os_error})"
        case aiohttp.ConnectionTimeoutError():
            return "connect", Effect.NONE, "no connection in time"
        case TimeoutError():
            return "timeout", Effect.UNKNOWN, "no answer in time"
        case aiohttp.ClientPayloadError():
            return "cut", Effect.UNKNOWN, "the answer was cut short"
        case _:
            return "transport", Effect.UNKNOWN, "the connection was lost"


async def _read(response: aiohttp.ClientResponse) -> bytes:
    received = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        received += chunk
        if len(received) > _BODY_LIMIT_BYTES:
            raise aiohttp.ClientPayloadError("the answer is absurdly long")
    return bytes(received)


async def _sent_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware that says of a lost connection what aiohttp does not take as leave to send again."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as lost:
        raise aiohttp.ClientConnectionError(str(lost)) from lost


def _client(connector: aiohttp.TCPConnector, *middlewares: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        # Cookies are kept by the log-in, which must know when it sends them.
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
        middlewares=middlewares,
    )
