"""The breaker against account lock-out: a refused password is sent again but once in a long while.

A directory behind Prism that is away for a minute refuses good passwords too, so a single probe is
allowed after each of ``_PAUSES_S``; a success forgets. Persisted, and shared by all processes of a state folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mover import logs
from mover.clock import Clock, iso, secret_bytes
from mover.errors import LoginRefused
from mover.hypervisor.nutanix.address import PrismAddress

log = logs.get(__name__)

_PAUSES_S = (900.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
"""After the first, second, third, every further refusal: at most four in 24 hours. Accounts lock at five or more."""
_REMEMBERED = 8
"""So many refused passwords, the latest: a daemon and a command may have different wrong ones."""
_SALT_BYTES = 16
# Slow on purpose: the file must not become an oracle for the password. About 10 ms, only where a file exists.
_COST = {"n": 1 << 12, "r": 8, "p": 1}


@dataclass(slots=True)
class _Refused:
    """One password that was refused."""

    secret_hash: str
    since: float
    tries: int = 0
    """Log-ins sent with it; one that is about to be sent counts."""
    next_at: float = 0.0
    """Not before this Unix time is it sent again."""

    def count(self, now: float, elsewhere: Collection[_Refused] = ()) -> None:
        """One more log-in. elsewhere: of the same password, at other Prisms that may ask the same directory."""
        self.tries += 1
        total = self.tries + sum(other.tries for other in elsewhere)
        self.next_at = now + _PAUSES_S[min(total, len(_PAUSES_S)) - 1]

    def is_due(self, now: float) -> bool:
        """Also where the clock was set back by more than a pause can last."""
        return not 0 < self.next_at - now <= _PAUSES_S[-1]


@dataclass(slots=True)
class _Record:
    """What the file holds."""

    salt: str = field(default_factory=lambda: secret_bytes(_SALT_BYTES).hex())
    refused: list[_Refused] = field(default_factory=list)

    def of(self, secret_hash: str) -> _Refused | None:
        return next((one for one in self.refused if hmac.compare_digest(one.secret_hash, secret_hash)), None)


class Breaker:
    """Remembers, per (Prism, user), hashes of the secrets that were refused."""

    def __init__(self, state_dir: Path, address: PrismAddress, username: str, secret: str, clock: Clock) -> None:
        name = hashlib.sha256(f"{address}\n{username}".encode()).hexdigest()[:24]
        self.path = state_dir / "breakers" / f"{name}.json"
        self._address, self._username, self._secret, self._clock = address, username, secret, clock
        self._unwritten: _Refused | None = None
        self._is_probe = False

    def check(self) -> None:
        """Before each log-in: raise LoginRefused where this very secret was refused and is not due again.

        One that is due is claimed, on disk, before it is sent: a crash or another process makes no second.
        """
        self._is_probe = False
        if self._unwritten is not None:
            self._claim(self._unwritten)
        elif self.path.exists():
            try:
                with self._held():
                    record = self._read(self.path)
                    known = record.of(self._hash(record))
                    if known is not None:
                        self._claim(known, self._elsewhere())
                        self._write(record)
            except OSError as error:
                # What cannot be claimed is not tried: another would claim it too.
                raise self._refusal(_Refused("", self._clock.now(), 1), problem=str(error)) from None

    def open(self) -> LoginRefused:
        """Remember that the secret was refused; returns the error to raise.

        Where it cannot be written, this object remembers it: a full disk must not lock an account.
        """
        now = self._clock.now()
        mine = self._unwritten or _Refused("", now)
        is_counted, self._is_probe = self._is_probe, False
        try:
            with self._held():
                record = self._read(self.path)
                secret_hash = self._hash(record)
                mine = record.of(secret_hash) or _Refused(secret_hash, mine.since, mine.tries)
                if not is_counted:
                    mine.count(now, self._elsewhere())
                    is_counted = True
                record.refused = [*(one for one in record.refused if one is not mine), mine][-_REMEMBERED:]
                self._write(record)
                self._unwritten = None
        except OSError as error:
            if not is_counted:
                mine.count(now)
            self._unwritten = mine
            log.warning("prism.breaker-not-written", path=str(self.path), said=str(error))
        return self._refusal(mine)

    def close(self) -> None:
        """The log-in worked: forget this secret's refusals."""
        self._is_probe, self._unwritten = False, None
        if not self.path.exists():
            return
        try:
            with self._held():
                record = self._read(self.path)
                mine = self._hash(record)
                record.refused = [one for one in record.refused if one.secret_hash != mine]
                if record.refused:
                    self._write(record)
                else:
                    self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("prism.breaker-not-removed", path=str(self.path), said=str(error))

    def _claim(self, known: _Refused, elsewhere: Collection[_Refused] = ()) -> None:
        now = self._clock.now()
        for one in (known, *elsewhere):
            if not one.is_due(now):
                raise self._refusal(replace(known, next_at=max(known.next_at, one.next_at)))
        known.count(now, elsewhere)
        self._is_probe = True
        log.info("prism.log-in-probe", host=str(self._address), user=self._username, tries=known.tries)

    def _refusal(self, known: _Refused, *, problem: str = "") -> LoginRefused:
        since, following = iso(known.since), iso(known.next_at)
        then = f"its next try cannot be noted ({problem})" if problem else f"it is tried once more at {following}"
        return LoginRefused(
            f"{self._address} refused the log-in of {self._username} (since {since}, {known.tries} sent); {then}",
            remedy=(
                "Correct prism.username or the password: a changed one is tried at once. If it is right (the directory "
                f"behind Prism was away), wait, or remove {self.path} to try now; unlock the account if it is locked."
            ),
            host=self._address.host,
            user=self._username,
            since=since,
            tries=known.tries,
            next_at=following,
        )

    def _elsewhere(self) -> list[_Refused]:
        """Of this user's same secret, by other Prisms: Central and Element ask one directory. Raises OSError."""
        others = [
            self._read(path, user=self._username) for path in self.path.parent.glob("*.json") if path != self.path
        ]
        found = [record.of(self._hash(record)) for record in others if record.refused]
        return [one for one in found if one is not None]

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Alone among all processes, for as long as files are read and written. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_name("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, record: _Record) -> None:
        shown = {"prism": str(self._address), "user": self._username, **asdict(record)}
        fresh = self.path.with_suffix(".new")
        fresh.touch(mode=0o600)
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(shown, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)

    def _read(self, path: Path, *, user: str | None = None) -> _Record:
        """A torn or missing file says nothing about the password: one more try is what it costs. Raises OSError.

        user: another one's file reads as empty.
        """
        try:
            found = json.loads(path.read_text("utf-8"))
            if user not in (None, found["user"]):
                return _Record()
            refused = [
                _Refused(str(one["secret_hash"]), float(one["since"]), int(one["tries"]), float(one["next_at"]))
                for one in found["refused"]
            ]
            return _Record(bytes.fromhex(found["salt"]).hex(), refused)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return _Record()

    def _hash(self, record: _Record) -> str:
        salt = bytes.fromhex(record.salt)
        return hashlib.scrypt(self._secret.encode(), salt=salt, dklen=32, **_COST).hex()
