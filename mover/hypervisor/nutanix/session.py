"""A logged-in session with one Prism: what is asked, how often, how patiently.

At most ``max_calls`` in flight. Only what is safe to repeat is repeated.
"""

from __future__ import annotations

import asyncio
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
    StateDamaged,
    StateFull,
    UnsupportedEndpoint,
)
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.answers import (
    Answer,
    effective_status,
    is_missing_by_500,
    is_refusal_by_500,
    passing_trouble,
    refusal,
    trouble,
)
from mover.hypervisor.nutanix.login import LogIn
from mover.hypervisor.nutanix.patience import Patience
from mover.hypervisor.nutanix.tls import trust_of
from mover.hypervisor.nutanix.wire import Effect, ExchangeFailed, Request, Wire
from mover.metrics import PRISM_REACHABLE, PRISM_RETRIES

log = logs.get(__name__)


_NOT_IN = (LoginRefused, CertificateRejected, UnsupportedEndpoint, StateDamaged, StateFull)


class Repeat(Enum):
    """May a call be sent again when its fate is unknown?"""

    SAFE = "safe"
    """It only reads, or a key or the state that it asks for makes it idempotent."""
    NEVER = "never"
    """A second one would do it twice: EffectUnknown, and the caller looks."""


class Session:
    """Calls to one Prism. Methods return parsed JSON and raise what hypervisor.protocol names."""

    def __init__(self, address: PrismAddress, settings: PrismSettings, *, clock: Clock, state_dir: Path) -> None:
        if not settings.username or not settings.password.get_secret_value():
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
        self._wire = Wire(address, trust_of(settings), max_calls=settings.max_calls)
        self._patience = Patience(clock, budget_s=settings.retry_budget)
        self._slots = asyncio.Semaphore(settings.max_calls)
        self._not_before = 0.0
        self._log_in = LogIn(
            address, settings, self._patience, self._exchange, self._judged, clock=clock, state_dir=state_dir
        )

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
        LoginRefused, CertificateRejected, StateDamaged, StateFull (of the breaker); Overloaded, HypervisorUnreachable
        when the patience is used up; EffectUnknown for ``Repeat.NEVER``. A 429 on such a call is
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
                # A repetition would meet the claim of its own log-in, and tell of that instead of the outage.
                if wait_s is None or failure.is_last:
                    raise failure.error from None
                self._hold_all(failure)
                PRISM_RETRIES.labels(failure.reason).inc()
                log.debug("prism.repeat", call=request.what, reason=failure.reason, wait_s=wait_s)
            await self.clock.sleep(wait_s)

    async def log_in(self) -> Any:
        """Log in and say who we are: the body of ``users/me``. Raises what ``call`` raises."""
        return await self.get("v3", "users/me")

    async def close(self) -> None:
        """Log out, if Prism still listens, and let go of connections."""
        await self._log_in.leave()
        await self._wire.close()

    async def _tried(self, request: Request) -> Any:
        """One try. The metrics are told whether this Prism answers and lets us in; a cancelled try says nothing."""
        reachable = PRISM_REACHABLE.labels(self.address.host)
        try:
            body = self._judged(await self._log_in.answer_to(request), request)
        except ExchangeFailed as failure:
            reachable.set(failure.reason == "429")
            raise
        except MoverError as error:
            reachable.set(not isinstance(error, _NOT_IN))
            raise
        reachable.set(1)
        return body

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

    async def _exchange(self, request: Request, headers: Mapping[str, str]) -> tuple[Answer, dict[str, str]]:
        answer, cookies = await self._wire.exchange(request, headers)
        self._note(answer)
        return answer, cookies

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


def _retry_after(answer: Answer) -> float:
    try:
        return min(60.0, max(0.0, float(answer.headers.get("Retry-After", "0"))))
    except ValueError:
        return 0.0
