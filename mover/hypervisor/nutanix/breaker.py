"""The breaker against account lock-out: one refused password is never sent again.

Persisted, so that later commands refuse without calling, until the password changes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from mover import logs
from mover.clock import Clock, iso, secret_bytes
from mover.errors import LoginRefused
from mover.hypervisor.nutanix.address import PrismAddress

log = logs.get(__name__)

_SALT_BYTES = 16
# Slow on purpose: the file must not become an oracle for the password. About 10 ms, only where a file exists.
_COST = {"n": 1 << 12, "r": 8, "p": 1}


class Breaker:
    """Remembers, per (Prism, user), a hash of the secret that was refused."""

    def __init__(self, state_dir: Path, address: PrismAddress, username: str, secret: str, clock: Clock) -> None:
        name = hashlib.sha256(f"{address}\n{username}".encode()).hexdigest()[:24]
        self.path = state_dir / "breakers" / f"{name}.json"
        self._address, self._username, self._secret, self._clock = address, username, secret, clock
        self._unwritten_since = ""

    def check(self) -> None:
        """Raise LoginRefused when this very secret was refused before; makes no call."""
        if self._unwritten_since:
            raise self.refusal(since=self._unwritten_since)
        record = self._read()
        if record is None:
            return
        salt, refused = bytes.fromhex(record["salt"]), bytes.fromhex(record["secret_hash"])
        if hmac.compare_digest(_hash(self._secret, salt), refused):
            raise self.refusal(since=str(record.get("since", "")))

    def open(self) -> LoginRefused:
        """Remember that the secret was refused; returns the error to raise.

        Where it cannot be written, this object remembers it: a full disk must not lock an account.
        """
        salt = secret_bytes(_SALT_BYTES)
        since = iso(self._clock.now())
        record = {
            "prism": str(self._address),
            "user": self._username,
            "since": since,
            "salt": salt.hex(),
            "secret_hash": _hash(self._secret, salt).hex(),
        }
        try:
            self._write(json.dumps(record))
        except OSError as error:
            self._unwritten_since = since
            log.warning("prism.breaker-not-written", path=str(self.path), said=str(error))
        return self.refusal(since=since)

    def close(self) -> None:
        """The log-in worked: forget."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("prism.breaker-not-removed", path=str(self.path), said=str(error))

    def refusal(self, *, since: str) -> LoginRefused:
        return LoginRefused(
            f"{self._address} refused the log-in of {self._username} (since {since}); it is not tried again",
            remedy=(
                "Correct prism.username or the password; a changed password is tried at once. "
                f"If it was right and the account is locked, unlock it on Prism and remove {self.path}."
            ),
            host=self._address.host,
            user=self._username,
            since=since,
        )

    def _write(self, record: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(record, "utf-8")
        fresh.chmod(0o600)
        fresh.replace(self.path)

    def _read(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self.path.read_text("utf-8"))
            bytes.fromhex(record["salt"])
            bytes.fromhex(record["secret_hash"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            # A torn or unreadable file says nothing about the password: one more try is what it costs.
            return None
        return dict(record)


def _hash(secret: str, salt: bytes) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=salt, dklen=32, **_COST)
