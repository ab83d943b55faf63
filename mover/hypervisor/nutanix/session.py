"""A logged-in session with one Prism: who we are, how often, how patiently.

Basic on the first call, cookies after; a 401 on a cookie is answered by one Basic try, a 401 on
Basic opens the breaker, which lets single probes pass. At most ``max_calls`` in flight. Only what
is safe to repeat is repeated. Authorization and Cookie are never logged.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from typing import Any

from mover import logs
from mover.clock import Clock
from mover.config import PrismSettings
from mover.errors import (
    CertificateRejected,
    ConfigError,
    EffectUnknown,
    LoginRefused,
    MoverError,
    RightsMissing,
    StateDamaged,
    UnsupportedEndpoint,
)
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.answers import (
    Answer,
    effective_status,
    is_login_page,
    is_missing_by_500,
    is_refusal_by_500,
    message_of,
    passing_trouble,
    refusal,
    trouble,
)
from mover.hypervisor.nutanix.breaker import Breaker
from mover.hypervisor.nutanix.patience import Patience
from mover.hypervisor.nutanix.tls import trust_of
from mover.hypervisor.nutanix.wire import Effect, ExchangeFailed, Request, Wire
from mover.metrics import PRISM_REACHABLE, PRISM_RETRIES

log = logs.get(__name__)

_GOODBYE_S = 3.0
_ME = "users/me"


class Repeat(Enum):
    """May a call be sent again when its fate is unknown?"""

    SAFE = "safe"
    """It only reads, or a key or the state that it asks for makes it idempotent."""
    NEVER = "never"
    """A second one would do it twice: EffectUnknown, and the caller looks."""


class Session:
    """Calls to one Prism. Methods return parsed JSON and raise what hypervisor.protocol names."""

    def __init__(self, address: PrismAddress, settings: PrismSettings, *, clock: Clock, state_dir: Path) -> None:
        secret = settings.password.get_secret_value()
        if not settings.username or not secret:
            raise ConfigError(
                "prism.username or its password is not set",
                remedy="Set prism.username and prism.password_file (or MOVER_PRISM__PASSWORD).",
            )
        self.address = address
        self.username = settings.username
        self.clock = clock
        self.call_timeout_s = settings.call_timeout
        self.task_timeout_s = settings.task_timeout
        self.environment = ""
        """``pe`` or ``pc`` where Prism says so (X-Ntnx-Env)."""
        self.clock_offset_s = 0.0
        self._basic = "Basic " + base64.b64encode(f"{settings.username}:{secret}".encode()).decode()
        self._breaker = Breaker(state_dir, address, settings.username, secret, clock)
        self._wire = Wire(address, trust_of(settings), max_calls=settings.max_calls)
        self._patience = Patience(clock, budget_s=settings.retry_budget)
        self._slots = asyncio.Semaphore(settings.max_calls)
        self._log_in_lock = asyncio.Lock()
        self._cookies: dict[str, str] = {}
        self._log_ins = 0
        self._is_in = False
        self._me: Any = None
        self._not_before = 0.0

    async def get(
        self, api: str, path: str, *, query: Mapping[str, str] | None = None, patience_s: float | None = None
    ) -> Any:
        return await self.call("GET", api, path, query=query, patience_s=patience_s)

    async def post(
        self,
        api: str,
        path: str,
        body: Any,
        *,
        repeat: Repeat = Repeat.SAFE,
        timeout_s: float | None = None,
        patience_s: float | None = None,
    ) -> Any:
        return await self.call("POST", api, path, body=body, repeat=repeat, timeout_s=timeout_s, patience_s=patience_s)

    async def call(
        self,
        method: str,
        api: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        repeat: Repeat = Repeat.SAFE,
        timeout_s: float | None = None,
        patience_s: float | None = None,
    ) -> Any:
        """One call with its repetitions; returns the parsed body (None when empty).

        timeout_s: of each try. patience_s: of them all; None: the setting's.

        Raises NotFound, RightsMissing, Conflict, RequestRefused (definite: no effect),
        LoginRefused, StateDamaged (of the breaker), CertificateRejected; Overloaded, HypervisorUnreachable when the
        patience is used up; EffectUnknown for ``Repeat.NEVER``. A 429 on such a call is
        Overloaded at once: refused, but only the caller may look and send again.
        """
        is_once = repeat is Repeat.NEVER
        timeout_s = timeout_s or min(self.call_timeout_s, patience_s or self.call_timeout_s)
        request = Request(method, api, path, body, query or {}, timeout_s, is_once)
        effort = self._patience.effort(patience_s)
        while True:
            try:
                async with self._slots:
                    await self._pace()
                    return await self._tried(request)
            except ExchangeFailed as failure:
                if is_once and failure.effect is not Effect.NONE:
                    raise self._sent_once(failure, request.what) from None
                wait_s = effort.next_wait(failure)
                if wait_s is None:
                    raise failure.error from None
                self._hold_all(failure)
                PRISM_RETRIES.labels(failure.reason).inc()
                log.debug("prism.repeat", call=request.what, reason=failure.reason, wait_s=wait_s)
            await self.clock.sleep(wait_s)

    async def log_in(self) -> Any:
        """Log in and say who we are: the body of ``users/me``. Raises what ``call`` raises."""
        return await self.get("v3", _ME)

    async def close(self) -> None:
        """Log out, if Prism still listens, and let go of connections."""
        if self._cookies and self._patience.is_well:
            try:
                await self._send(Request("GET", "v3", "logout", None, {}, _GOODBYE_S, is_once=False), basic=False)
            except (ExchangeFailed, MoverError) as error:
                log.debug("prism.logout", host=str(self.address), said=str(error))
        await self._wire.close()

    async def _tried(self, request: Request) -> Any:
        """One try. The metrics are told whether this Prism answers and lets us in; a cancelled try says nothing."""
        reachable = PRISM_REACHABLE.labels(self.address.host)
        try:
            body = await self._authorised(request)
        except ExchangeFailed as failure:
            reachable.set(failure.reason == "429")
            raise
        except MoverError as error:
            reachable.set(not isinstance(error, (LoginRefused, CertificateRejected, UnsupportedEndpoint, StateDamaged)))
            raise
        reachable.set(1)
        return body

    async def _authorised(self, request: Request) -> Any:
        if not self._is_in:
            await self._log_in(after=self._log_ins)
            if request.path == _ME:
                return self._me
        if not self._cookies:
            # One at a time: many in flight would all be wrong at once.
            async with self._log_in_lock:
                await self._breaker.check()
                answer = await self._proven(request)
            return self._judged(answer, request)
        seen = self._log_ins
        answer = await self._send(request, basic=False)
        if answer.status == 401 or is_login_page(answer):
            PRISM_RETRIES.labels("401").inc()
            await self._log_in(after=seen)
            answer = await self._again(request)
        return self._judged(answer, request)

    async def _again(self, request: Request) -> Answer:
        """By the new log-in's cookies; where these do not count, by Basic: many at once may be refused though right."""
        if self._cookies:
            answer = await self._send(request, basic=False)
            if answer.status != 401 and not is_login_page(answer):
                return answer
        async with self._log_in_lock:
            await self._breaker.check()
            try:
                return await self._proven(request)
            except LoginRefused:
                # Accepted a moment ago: is it the password now, or the right to this call?
                await self._introduce()
        raise self._not_for_us(request.what)

    async def _log_in(self, *, after: int) -> None:
        """One Basic try at a time: many calls with a wrong password would lock the account."""
        async with self._log_in_lock:
            if self._log_ins != after and self._is_in:
                return
            self._is_in = False
            self._cookies = {}
            await self._breaker.check()
            await self._introduce()
            self._log_ins += 1

    async def _introduce(self) -> None:
        """Who are we? After the breaker's check."""
        request = Request("GET", "v3", _ME, None, {}, self.call_timeout_s, is_once=False)
        try:
            answer = await self._proven(request)
            if answer.status == 403 and answer.is_json:
                raise self._locked_out(message_of(answer.body))
            if answer.status == 404 and answer.is_json:
                raise self._no_prism()
            self._me = self._judged(answer, request)
        except ExchangeFailed as failure:
            # The caller's own request has not been sent yet, or was refused.
            failure.effect = Effect.NONE
            if failure.reason in ("html", "redirect") and not self._patience.has_answered:
                failure.error = self._no_prism()
            raise
        await self._breaker.close()
        self._is_in = True

    async def _proven(self, request: Request) -> Answer:
        """By Basic, and the breaker is told what became of it. Raises LoginRefused at a 401."""
        try:
            answer = await self._send(request, basic=True)
        except (ExchangeFailed, CertificateRejected) as failure:
            if isinstance(failure, CertificateRejected) or failure.effect is Effect.NONE:
                await self._breaker.give_back()
            raise
        if answer.status == 401:
            self._is_in = False
            raise await self._breaker.open()
        # Neither a gateway nor an account that is locked proves a password.
        if self._is_in and passing_trouble(answer) is None and answer.status != 403:
            await self._breaker.close()
        return answer

    async def _send(self, request: Request, *, basic: bool) -> Answer:
        written = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"Authorization": self._basic} if basic else {"Cookie": written}
        answer, cookies = await self._wire.exchange(request, headers)
        if answer.status != 401:
            self._cookies = {name: value for name, value in {**self._cookies, **cookies}.items() if value}
        self._note(answer)
        return answer

    def _judged(self, answer: Answer, request: Request) -> Any:
        """The body, or the error that the answer stands for."""
        host, what = str(self.address), request.what
        if request.method == "GET" and is_missing_by_500(answer, request.path):
            answer = replace(answer, status=404)
        elif request.method != "GET" and not request.is_once and is_refusal_by_500(answer):
            answer = replace(answer, status=422)
        reason = passing_trouble(answer)
        if reason is None and request.method == "GET" and answer.status < 300 and not isinstance(answer.body, Mapping):
            # Nothing, said with success, must not read as "there is nothing".
            reason = "cut"
        if reason is not None:
            effect = Effect.REFUSED if reason == "429" else Effect.UNKNOWN
            error = trouble(answer, what=what, host=host)
            if is_refusal_by_500(answer):
                error.facts["says_refused"] = True
            raise ExchangeFailed(error, reason=reason, effect=effect, wait_s=_retry_after(answer))
        self._patience.succeeded()
        if effective_status(answer) >= 400:
            raise refusal(answer, what=what, host=host)
        return answer.body

    def _note(self, answer: Answer) -> None:
        self.environment = answer.headers.get("X-Ntnx-Env", self.environment).lower()
        try:
            theirs = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        except (ValueError, TypeError):
            return
        self.clock_offset_s = theirs - self.clock.now()

    async def _pace(self) -> None:
        wait_s = self._not_before - self.clock.monotonic()
        if wait_s > 0:
            await self.clock.sleep(wait_s)

    def _hold_all(self, failure: ExchangeFailed) -> None:
        """Prism named a time (Retry-After): it is meant for all calls."""
        if failure.wait_s > 0:
            self._not_before = max(self._not_before, self.clock.monotonic() + failure.wait_s)

    def _sent_once(self, failure: ExchangeFailed, what: str) -> MoverError:
        if failure.effect is Effect.REFUSED:
            return failure.error
        return EffectUnknown(
            f"{what} was sent to {self.address}, its outcome is not known: {failure.error.message}",
            remedy="Nothing is sent twice: `mover orphans` looks what became of it.",
            operation=what,
            host=str(self.address),
            reason=failure.reason,
            **{name: fact for name, fact in failure.error.facts.items() if name == "says_refused"},
        )

    def _locked_out(self, said: str) -> LoginRefused:
        return LoginRefused(
            f"{self.address} forbids the log-in of {self.username}: {said or 'no explanation'}",
            remedy="The account may be locked or disabled: unlock it on Prism, then run the command again.",
            host=self.address.host,
            user=self.username,
        )

    def _not_for_us(self, what: str) -> RightsMissing:
        return RightsMissing(
            f"{self.address} accepts the log-in of {self.username}, but answers 401 to {what}",
            remedy="Give the user of prism.username the role Cluster Admin on this Prism; if it has it, try again.",
            status=401,
            operation=what,
            host=str(self.address),
        )

    def _no_prism(self) -> UnsupportedEndpoint:
        return UnsupportedEndpoint(
            f"{self.address} does not serve Prism's v3 interface",
            remedy="Set prism.url to the address of a Prism Element or Prism Central (port 9440).",
            host=str(self.address),
        )


def _retry_after(answer: Answer) -> float:
    try:
        return min(60.0, max(0.0, float(answer.headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0
