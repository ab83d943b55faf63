"""Who is calling: Basic or a session cookie, the two roles, and the lock-out."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass

from mover.clock import Clock, secret_bytes
from mover.lab.answers import Refusal
from mover.lab.options import LabOptions
from mover.lab.state import LockRecord, State

COOKIE = "JSESSIONID"


@dataclass(frozen=True, slots=True)
class Caller:
    username: str
    is_admin: bool
    new_cookie: str | None = None
    """Set when Basic made a session."""


class Gate:
    """The log-in of one Prism (Element and Central have separate sessions).

    Sessions live in memory: a restart of Prism forgets them. Wrong tries are part of the state.
    """

    def __init__(self, options: LabOptions, state: State, clock: Clock) -> None:
        self._passwords = {
            options.username: (options.password, True),
            options.viewer_username: (options.viewer_password, False),
        }
        self._options = options
        self._state = state
        self._clock = clock
        self._sessions: dict[str, tuple[str, float]] = {}

    def admit(self, authorization: str | None, cookie: str | None) -> Caller:
        """A valid cookie wins over Basic; a stale one is ignored beside Basic. Raises Refusal 401, or 403 as a page."""
        known = self._of_cookie(cookie)
        if known is not None:
            return Caller(known, self._passwords[known][1])
        if authorization is None and cookie and self._options.stale_session == "login-page":
            raise Refusal(403, "ACCESS_DENIED", "Log in again.", is_page=True)
        if authorization is None:
            raise Refusal(401, "AUTHENTICATION_REQUIRED", "Authentication required.")
        username = self._of_basic(authorization)
        fresh = secret_bytes(16).hex().upper()
        self._sessions[fresh] = (username, self._clock.monotonic() + self._options.session_life_s)
        return Caller(username, self._passwords[username][1], fresh)

    def forget_sessions(self) -> None:
        """All cookies are stale from now on."""
        self._sessions.clear()

    def end(self, cookie: str | None) -> None:
        self._sessions.pop(cookie or "", None)

    def _of_cookie(self, cookie: str | None) -> str | None:
        username, until = self._sessions.get(cookie or "", ("", 0.0))
        if username and until > self._clock.monotonic():
            return username
        self._sessions.pop(cookie or "", None)
        return None

    def _of_basic(self, authorization: str) -> str:
        username, password = _decoded(authorization)
        lock = self._state.locks.setdefault(username, LockRecord())
        if lock.locked_until > self._clock.now():
            raise Refusal(self._options.lockout_status, "ACCESS_DENIED", "The account is locked.")
        expected, _ = self._passwords.get(username, ("", False))
        if username in self._passwords and hmac.compare_digest(expected.encode(), password.encode()):
            lock.wrong = 0
            return username
        lock.wrong += 1
        if self._options.lockout_tries and lock.wrong >= self._options.lockout_tries:
            lock.locked_until, lock.wrong = self._clock.now() + self._options.lockout_s, 0
        raise Refusal(401, "AUTHENTICATION_REQUIRED", "Invalid username or password.")


def _decoded(authorization: str) -> tuple[str, str]:
    scheme, _, coded = authorization.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)
        username, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        raise Refusal(401, "AUTHENTICATION_REQUIRED", "Only Basic authentication is known here.") from None
    return username, password
