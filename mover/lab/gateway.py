"""One Prism on HTTPS, Element or Central: from a request to an answer, or to a fault.

Order: path → operation → faults on the call → log-in → rights → body → handler → state
written → answer. Nothing is answered before the state that it tells of is on disk.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

from aiohttp import web

from mover.clock import stopwatch
from mover.lab import schema
from mover.lab.answers import Answer, Refusal, odd, v2_error, v3_error
from mover.lab.auth import COOKIE, Caller, Gate
from mover.lab.cluster import Cluster
from mover.lab.operations import CENTRAL, ELEMENT, UNKNOWN, Call, Operation, find, plain_path

Handler = Callable[[Call], Awaitable[Answer]]
Bites = dict[str, dict[str, Any]]
Administer = Callable[[dict[str, Any], Any], Awaitable[None]]
"""An action's parameters, and the body of the call that it came with."""

HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>nginx</body></html>"
NO_EFFECT = {"status", "drop", "hang", "late_effect"}


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of the call log. status 0: the connection was cut."""

    operation: str
    method: str
    path: str
    status: int
    side: str
    username: str = ""
    seconds: float = 0.0
    faults: tuple[str, ...] = ()
    body: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as it came: its operation, and its body raw and parsed (None: no JSON)."""

    request: web.Request
    operation: Operation
    params: dict[str, str]
    raw: bytes
    body: Any


class Gateway:
    """Serves one side; both sides share the cluster and the call log."""

    def __init__(
        self,
        side: str,
        cluster: Cluster,
        gate: Gate,
        handlers: dict[str, Handler],
        *,
        log: Callable[[Logged], None],
        administer: Administer,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.side = side
        self.gate = gate
        self._cluster = cluster
        self._handlers = handlers
        self._log = log
        self._administer = administer
        self._spawn = spawn

    def application(self) -> web.Application:
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", self._serve)
        return application

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        began = stopwatch()
        raw = await request.read()
        operation, params = find(request.method, plain_path(request.rel_url.raw_path)) or (UNKNOWN, {})
        asked = _Asked(request, operation, params, raw, _parsed(raw))
        bites = self._cluster.faults.take("call", operation.name, self._about(asked), side=self.side)
        if "latency" in bites:
            await self._cluster.clock.sleep(bites["latency"]["seconds"])
        response, username = await self._bitten(asked, bites)
        self._log(
            Logged(
                operation=operation.name,
                method=request.method,
                path=request.path_qs,
                status=response.status if response is not None else 0,
                side=self.side,
                username=username,
                seconds=stopwatch() - began,
                faults=tuple(bites),
                body=asked.body,
            )
        )
        if response is None:
            return _cut(request)
        if "cut_body" in bites:
            return await _half(request, response)
        return response

    async def _bitten(self, asked: _Asked, bites: Bites) -> tuple[web.Response | None, str]:
        """The answer (None: cut the connection) under the faults that bite, and who asked."""
        if "logged_out" in bites:
            self.gate.forget_sessions()
        somebody = bites.get("administrator")
        if somebody and not somebody["after"]:
            await self._administer(somebody, asked.body)
        prevented = next((name for name in bites if name in NO_EFFECT), None)
        if prevented:
            return await self._without_effect(asked, prevented, bites[prevented]), ""
        answer, caller = await self._answer(asked)
        if somebody and somebody["after"]:
            await self._administer(somebody, asked.body)
        username = caller.username if caller else ""
        if "effect_then_hang" in bites:
            await self._cluster.clock.sleep(bites["effect_then_hang"]["seconds"])
        if "lost_answer" in bites or "effect_then_hang" in bites:
            return None, username
        if "effect_then_status" in bites:
            return self._error(asked.operation, bites["effect_then_status"]), username
        return self._rendered(answer, caller), username

    async def _without_effect(self, asked: _Asked, name: str, args: dict[str, Any]) -> web.Response | None:
        if name == "late_effect":
            self._spawn(self._later(asked, args["seconds"]))
            return self._error(asked.operation, args) if args["status"] else None
        if name == "hang":
            await self._cluster.clock.sleep(args["seconds"])
        return self._error(asked.operation, args) if name == "status" else None

    async def _later(self, asked: _Asked, seconds: float) -> None:
        await self._cluster.clock.sleep(seconds)
        await self._answer(asked)

    def _error(self, operation: Operation, args: dict[str, Any]) -> web.Response:
        status = args["status"]
        headers = self._headers()
        if args.get("retry_after"):
            headers["Retry-After"] = str(args["retry_after"])
        if args["html"]:
            return web.Response(status=status, text=HTML.format(status), content_type="text/html", headers=headers)
        refusal = Refusal(status, args.get("reason") or _REASONS.get(status, "INTERNAL_ERROR"), "The lab was told so.")
        return web.json_response(_shape(operation, refusal), status=status, headers=headers)

    # --- the honest way -----------------------------------------------------------------------

    async def _answer(self, asked: _Asked) -> tuple[Answer, Caller | None]:
        """Log in, check, do. Refusals become answers in the API's own shape."""
        operation, request, caller = asked.operation, asked.request, None
        cookie = request.cookies.get(COOKIE)
        try:
            caller = self.gate.admit(request.headers.get("Authorization"), cookie)
            self._check_side(operation, request.query.get("proxyClusterUuid", ""))
            if operation.needs_admin and not caller.is_admin:
                raise Refusal(403, "ACCESS_DENIED", f"User {caller.username} may not do this.")
            body = self._checked(operation, asked.raw)
            call = Call(operation, self.side, asked.params, dict(request.query), body, caller.username, cookie)
            answer = await self._handlers[operation.name](call)
        except Refusal as refusal:
            answer = Answer(_shape(operation, refusal), refusal.status, is_page=refusal.is_page)
        except FileNotFoundError:
            # Deleted by somebody else between the look and the read.
            gone = Refusal(404, "ENTITY_NOT_FOUND", "The file does not exist any more.")
            answer = Answer(_shape(operation, gone), gone.status)
        # A wrong password is counted for the lock-out.
        if operation.is_change or answer.status == 401:
            self._cluster.save()
        return answer, caller

    def _check_side(self, operation: Operation, proxied: str) -> None:
        """Central forwards v2 to the Element that is named; it has no v2 of its own."""
        is_forwarded = self.side == CENTRAL and operation.api == "v2" and proxied == self._cluster.state.cluster_uuid
        here = {ELEMENT} if is_forwarded else {self.side}
        if not here & operation.sides:
            raise Refusal(404, "ENTITY_NOT_FOUND", "The requested URL was not found on the server.")

    def _checked(self, operation: Operation, raw: bytes) -> Any:
        """The parsed body. Raises Refusal 422 on what its table does not allow."""
        if operation.table is None:
            return None
        try:
            body = json.loads(raw)
        except ValueError:
            raise Refusal(422, "DESERIALIZATION_FAILED", "The body is not JSON.") from None
        strict = operation.api == "v3" and self._cluster.options.refuse_unknown_members
        try:
            schema.check(body, operation.table, strict=strict)
        except schema.Mismatch as mismatch:
            raise Refusal(422, "INVALID_REQUEST", f"Given input is invalid. {mismatch}") from None
        return body

    def _rendered(self, answer: Answer, caller: Caller | None) -> web.Response:
        headers = self._headers() | answer.headers
        if answer.is_page:
            return web.Response(
                status=answer.status, text=HTML.format("Log in"), content_type="text/html", headers=headers
            )
        body = odd(answer.body) if self._cluster.options.odd_answers else answer.body
        response = web.json_response(body, status=answer.status, headers=headers)
        if caller is not None and caller.new_cookie:
            response.set_cookie(COOKIE, caller.new_cookie, path="/", secure=True, httponly=True)
        return response

    def _headers(self) -> dict[str, str]:
        headers = {"Date": formatdate(self._cluster.now(), usegmt=True)}
        if self._cluster.options.tells_side:
            headers["X-Ntnx-Env"] = self.side
        if self.side == CENTRAL:
            headers["X-Ntnx-Product"] = "pc.2024.3.1.1"
        return headers

    def _about(self, asked: _Asked) -> Collection[str]:
        """What a call concerns, for matching faults: UUIDs, paths, and the names of what they mean."""
        about = {text.lower() for text in asked.params.values()} | _texts(asked.body, 6)
        about |= {text.rpartition("/")[2] for text in about if "/" in text}
        for vm in self._cluster.state.vms.values():
            if vm.uuid in about:
                about.add(vm.name)
            for disk in vm.disks:
                if about & {disk.vmdisk_uuid, disk.device_uuid}:
                    about |= {disk.label, disk.device_uuid, str(disk.vmdisk_uuid), vm.name, vm.uuid}
        return about


_REASONS = {
    400: "INVALID_REQUEST",
    401: "AUTHENTICATION_REQUIRED",
    403: "ACCESS_DENIED",
    404: "ENTITY_NOT_FOUND",
    409: "CONCURRENT_REQUESTS_NOT_ALLOWED",
    422: "INVALID_REQUEST",
    429: "TOO_MANY_REQUESTS",
    503: "SERVICE_UNAVAILABLE",
}


def _shape(operation: Operation, refusal: Refusal) -> Any:
    return v2_error(refusal) if operation.api == "v2" else v3_error(refusal, operation.kind)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return None


def _texts(value: Any, depth: int) -> set[str]:
    """All strings in a body, not deeper than so many levels."""
    if isinstance(value, str):
        return {value}
    if depth == 0 or not isinstance(value, dict | list):
        return set()
    items = value.values() if isinstance(value, dict) else value
    return {text for item in items for text in _texts(item, depth - 1)}


def _cut(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, response: web.Response) -> web.StreamResponse:
    """Promise the whole body, send half of it, and go."""
    content = response.body if isinstance(response.body, bytes) else b""
    short = web.StreamResponse(status=response.status, headers={"Content-Type": "application/json"})
    short.content_length = len(content)
    await short.prepare(request)
    await short.write(content[: len(content) // 2])
    return _cut(request)
