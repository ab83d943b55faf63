"""Who we are to one Prism: Basic on the first call, cookies after.

A 401 on a cookie is answered by one Basic try. A 401 on Basic is the password's only if ``users/me`` is answered so
too (Prism says 401 for a missing right as well): then it opens the breaker, which lets single probes pass.
Authorization and Cookie are never logged.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mover import logs
from mover.clock import Clock
from mover.config import PrismSettings
from mover.errors import CertificateRejected, LoginRefused, MoverError, RightsMissing, UnsupportedEndpoint
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.answers import Answer, is_login_page, message_of, passing_trouble
from mover.hypervisor.nutanix.breaker import Breaker
from mover.hypervisor.nutanix.patience import Patience
from mover.hypervisor.nutanix.wire import Effect, ExchangeFailed, Request
from mover.metrics import PRISM_RETRIES

log = logs.get(__name__)

_ME = "users/me"
_GOODBYE_S = 3.0


class LogIn:
    """The log-in of all calls to one Prism."""

    def __init__(
        self,
        address: PrismAddress,
        settings: PrismSettings,
        patience: Patience,
        exchange: Callable[[Request, Mapping[str, str]], Awaitable[tuple[Answer, dict[str, str]]]],
        judged: Callable[[Answer, Request], Any],
        *,
        clock: Clock,
        state_dir: Path,
    ) -> None:
        """exchange: as ``Wire.exchange``. judged: the body of an answer, or the error that it stands for."""
        secret = settings.password.get_secret_value()
        self._address, self._username = address, settings.username
        self._call_timeout_s = settings.call_timeout
        self._basic = "Basic " + base64.b64encode(f"{settings.username}:{secret}".encode()).decode()
        self._breaker = Breaker(
            state_dir, address, settings.username, secret, clock, answer_within_s=settings.call_timeout
        )
        self._patience, self._exchange, self._judged = patience, exchange, judged
        self._lock = asyncio.Lock()
        self._cookies: dict[str, str] = {}
        self._times = 0
        self._is_in = False
        self._me: Answer | None = None

    async def answer_to(self, request: Request) -> Answer:
        """One exchange, with the log-ins that it takes.

        Raises ExchangeFailed, and what ``Session.call`` names of the log-in.
        """
        if not self._is_in:
            await self._log_in(after=self._times)
            if request.path == _ME and self._me is not None:
                return self._me
        if not self._cookies:
            return await self._by_basic(request)
        seen = self._times
        answer = await self._send(request, basic=False)
        if answer.status == 401 or is_login_page(answer):
            PRISM_RETRIES.labels("401").inc()
            await self._log_in(after=seen)
            answer = await self._again(request)
        return answer

    async def leave(self) -> None:
        """Log out, if Prism still listens."""
        if self._cookies and self._patience.is_well:
            try:
                await self._send(Request("GET", "v3", "logout", None, {}, _GOODBYE_S, is_once=False), basic=False)
            except (ExchangeFailed, MoverError) as error:
                log.debug("prism.logout", host=str(self._address), said=str(error))

    async def _again(self, request: Request) -> Answer:
        """By the new log-in's cookies; where these do not count, by Basic: many at once may be refused though right."""
        if self._cookies:
            answer = await self._send(request, basic=False)
            if answer.status != 401 and not is_login_page(answer):
                return answer
        return await self._by_basic(request)

    async def _by_basic(self, request: Request) -> Answer:
        """One at a time: many in flight would all be wrong at once. RightsMissing where only this call is refused."""
        async with self._lock:
            async with self._breaker.flight(is_made=not self._cookies):
                is_probe, is_me = await self._breaker.check(), request.path == _ME
                # A probe is one log-in, whose 401 leaves no doubt.
                if is_probe or is_me or not self._is_in:
                    self._is_in = False
                    me = await self._introduce()
                    if is_me:
                        return me
                answer = await self._proven(request)
                if answer.status != 401:
                    return answer
                self._is_in = False
                # Accepted before: is it the password now, or the right to this call?
                is_shared = not self._cookies
                if is_shared:
                    await self._breaker.claim()
                else:
                    self._breaker.doubt()
            async with self._breaker.asking() if is_shared else nullcontext():
                await self._introduce()
        raise self._not_for_us(request.what)

    async def _log_in(self, *, after: int) -> None:
        """One Basic try at a time: many calls with a wrong password would lock the account."""
        async with self._lock:
            if self._times != after and self._is_in:
                return
            self._is_in = False
            self._cookies = {}
            async with self._breaker.flight(is_made=False):
                await self._breaker.check()
                await self._introduce()

    async def _introduce(self) -> Answer:
        """Who are we? After the breaker's check."""
        request = Request("GET", "v3", _ME, None, {}, self._call_timeout_s, is_once=False)
        try:
            answer = await self._proven(request)
            if answer.status == 401:
                raise await self._breaker.open()
            if answer.status == 403 and answer.is_json:
                raise self._locked_out(message_of(answer.body))
            if answer.status == 404 and answer.is_json:
                raise self._no_prism()
            self._judged(answer, request)
        except ExchangeFailed as failure:
            # The caller's own request has not been sent yet, or was refused.
            failure.effect = Effect.NONE
            failure.is_last = self._breaker.holds_claim
            if failure.reason in ("html", "redirect") and not self._patience.has_answered:
                failure.error = self._no_prism()
            raise
        await self._breaker.close()
        self._me, self._is_in = answer, True
        self._times += 1
        return answer

    async def _proven(self, request: Request) -> Answer:
        """By Basic; the breaker is told if it never left, or proved the password. What a 401 means is the caller's."""
        try:
            answer = await self._send(request, basic=True)
        except (ExchangeFailed, CertificateRejected) as failure:
            if isinstance(failure, CertificateRejected) or failure.effect is Effect.NONE:
                await self._breaker.give_back()
            raise
        # Neither a gateway nor an account that is locked proves a password; ``_introduce`` looks closer.
        if request.path != _ME and passing_trouble(answer) is None and answer.status not in (401, 403):
            await self._breaker.close()
        return answer

    async def _send(self, request: Request, *, basic: bool) -> Answer:
        written = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        headers = {"Authorization": self._basic} if basic else {"Cookie": written}
        answer, cookies = await self._exchange(request, headers)
        if answer.status != 401:
            self._cookies = {name: value for name, value in {**self._cookies, **cookies}.items() if value}
        return answer

    def _locked_out(self, said: str) -> LoginRefused:
        return LoginRefused(
            f"{self._address} forbids the log-in of {self._username}: {said or 'no explanation'}",
            remedy="The account may be locked or disabled: unlock it on Prism, then run the command again.",
            host=self._address.host,
            user=self._username,
        )

    def _not_for_us(self, what: str) -> RightsMissing:
        return RightsMissing(
            f"{self._address} accepts the log-in of {self._username}, but answers 401 to {what}",
            remedy="Give the user of prism.username the role Cluster Admin on this Prism; if it has it, try again.",
            status=401,
            operation=what,
            host=str(self._address),
        )

    def _no_prism(self) -> UnsupportedEndpoint:
        return UnsupportedEndpoint(
            f"{self._address} does not serve Prism's v3 interface",
            remedy="Set prism.url to the address of a Prism Element or Prism Central (port 9440).",
            host=str(self._address),
        )
