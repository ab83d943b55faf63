"""The breaker against account lock-out: a refused password is sent again but once in a long while.

A directory behind Prism that is away for a minute refuses good passwords too, so a single probe is
allowed after each of ``_PAUSES_S``; a success forgets. Persisted, and shared by all processes of a state folder.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mover import logs
from mover.clock import Clock, iso, secret_bytes
from mover.errors import LoginRefused, StateDamaged, StateFull
from mover.hypervisor.nutanix.address import PrismAddress
from mover.hypervisor.nutanix.flights import Flights, locked

log = logs.get(__name__)

_PAUSES_S = (900.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
"""After the first, second, third, every further refusal: at most four in 24 hours. Accounts lock at five or more."""
_REMEMBERED = 8
"""So many refused passwords, the latest: a daemon and a command may have different wrong ones."""
_SALT_BYTES = 16
# Slow on purpose: the file must not become an oracle for the password. About 10 ms, only where a file exists.
_COST = {"n": 1 << 12, "r": 8, "p": 1}
# It is held for milliseconds; longer only by a process that was stopped.
_LOCK_WITHIN_S = 5.0

_Kept = TypeVar("_Kept", bound="_Refused | None")


@dataclass(frozen=True, slots=True)
class _Refused:
    """One password that was refused; Unix times."""

    since: float
    last_at: float
    tries: int
    """Log-ins sent with it; one that is about to be sent counts."""


@dataclass(slots=True)
class _Record:
    """What a file holds: the refused by the hashes of their passwords, the latest last."""

    user: str
    salt: str = field(default_factory=lambda: secret_bytes(_SALT_BYTES).hex())
    refused: dict[str, _Refused] = field(default_factory=dict)


class Breaker:
    """Remembers, per (Prism, user), hashes of the secrets that were refused.

    For one log-in at a time: ``check`` before it, then what became of it: ``open``, ``close`` or ``give_back``; or
    ``doubt`` or ``claim``, and then the same of the log-in that tells what the 401 meant.
    """

    def __init__(
        self,
        state_dir: Path,
        address: PrismAddress,
        username: str,
        secret: str,
        clock: Clock,
        *,
        answer_within_s: float = 30.0,
    ) -> None:
        name = hashlib.sha256(f"{address}\n{username}".encode()).hexdigest()[:24]
        self.path = state_dir / "breakers" / f"{name}.json"
        self._address, self._username, self._secret, self._clock = address, username, secret, clock
        self._unwritten: _Refused | None = None
        self._probe: tuple[_Refused, _Refused] | None = None
        """The log-in under way, where it is one: what was known of this secret before, and is now."""
        self._doubts = 0
        """401s that no file counts, since they may have meant something else."""
        self._claim: _Refused | None = None
        """A 401 that is counted though it may have meant something else."""
        self._is_first = False
        """Nobody else had claimed then."""
        self._flights = Flights(self.path.parent, clock, within_s=answer_within_s)

    @property
    def holds_claim(self) -> bool:
        """Whoever sends the same again now meets a claim of this object."""
        return self._probe is not None or self._claim is not None

    def flight(self, *, is_made: bool) -> AbstractAsyncContextManager[None]:
        """Around a log-in, from before its ``check`` until it is counted. is_made: as of ``Flights.one``."""
        return self._flights.one(is_made=is_made)

    async def check(self) -> bool:
        """Before each log-in: raise LoginRefused where this very secret was refused and is not due again.

        True: it was refused and is due, so this is a probe.

        One that is due is claimed, on disk, before it is sent: a crash or another process makes no second.
        Raises StateDamaged, StateFull where it cannot be claimed: another would claim it too.
        """
        try:
            await self._replace(self._claimed)
        except OSError as error:
            raise self._unusable(error) from None
        if self._probe is not None:
            log.info("prism.log-in-probe", host=str(self._address), user=self._username, tries=self._probe[1].tries)
        return self._probe is not None

    def doubt(self) -> None:
        """A 401 that may mean a missing right: what the next log-in is answered decides, ``open`` counts both."""
        self._doubts += 1

    async def claim(self) -> None:
        """A 401 that may mean a missing right, where each call is a log-in and others may be under way: counted now."""
        self._claim = await self._note(self._counted_in_order)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Around the log-in that tells what the 401 of ``claim`` meant; no other is under way meanwhile.

        Raises LoginRefused, and nothing may be sent, where others claimed before, or it would be one too many.
        """
        claim = self._claim
        assert claim is not None
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._flights.alone())
                known = self._known(self._read(self.path))
            except OSError as error:
                log.warning("prism.log-in-not-asked", host=str(self._address), said=str(error))
                raise self._refusal(claim) from None
            # None: another one has asked meanwhile, and the password is good.
            sent = self._sent(known) if known else 0
            if sent >= (len(_PAUSES_S) if self._is_first else 2):
                raise self._refusal(known or claim)
            yield

    async def open(self) -> LoginRefused:
        """Remember that the secret was refused; returns the error to raise.

        Where it cannot be written, this object remembers it: a full disk must not lock an account.
        """
        probe, self._probe, self._claim = self._probe, None, None
        refused = probe[1] if probe else await self._note(self._counted)
        self._doubts = 0
        return self._refusal(refused)

    async def close(self) -> None:
        """The log-in worked: forget this secret's refusals."""
        self._unwritten = self._probe = self._claim = None
        self._doubts = 0
        await self._note(lambda _known: None)

    async def give_back(self) -> None:
        """The log-in certainly did not leave: if it was a probe, it is due as before."""
        probe, self._probe = self._probe, None
        if probe is not None:
            await self._note(lambda known: probe[0] if known == probe[1] else known)

    def _claimed(self, known: _Refused | None) -> _Refused | None:
        """With the log-in that is about to be sent. Raises LoginRefused where it is not due."""
        self._probe = self._claim = None
        if known is None:
            return None
        # Due also where the clock was set back by more than a pause can last.
        if 0 < self._next_at(known) - self._clock.now() <= _PAUSES_S[-1]:
            raise self._refusal(known)
        self._probe = known, self._counted(known)
        return self._probe[1]

    def _counted(self, known: _Refused | None) -> _Refused:
        """With one more log-in, now, and those in doubt."""
        now, more = self._clock.now(), 1 + self._doubts
        return _Refused(known.since, now, known.tries + more) if known else _Refused(now, now, more)

    def _counted_in_order(self, known: _Refused | None) -> _Refused:
        claim = self._counted(known)
        self._is_first = self._sent(claim) == 1
        return claim

    def _next_at(self, mine: _Refused) -> float:
        """When it may be sent again: what was sent elsewhere in 24 hours counts with it, from the last of all."""
        now = self._clock.now()
        # A clock set back a little makes nothing elsewhere come later than a pause from now: that would read as due.
        last_at = max([mine.last_at, *(min(one.last_at, now) for one in self._lately_elsewhere())])
        return last_at + _PAUSES_S[min(self._sent(mine), len(_PAUSES_S)) - 1]

    def _sent(self, mine: _Refused) -> int:
        """Wrong log-ins, here and in 24 hours elsewhere."""
        return mine.tries + sum(one.tries for one in self._lately_elsewhere())

    def _lately_elsewhere(self) -> list[_Refused]:
        now = self._clock.now()
        return [one for one in self._elsewhere() if abs(now - one.last_at) < _PAUSES_S[-1]]

    def _elsewhere(self) -> Iterator[_Refused]:
        """This user's same secret at other Prisms: Central and Element ask one directory."""
        for path in self.path.parent.glob("*.json"):
            # One that cannot be read belongs to a user of this machine who counts for himself.
            with suppress(OSError):
                record = self._read(path)
                if path != self.path and record.user == self._username and self._hash(record) in record.refused:
                    yield record.refused[self._hash(record)]

    def _refusal(self, known: _Refused) -> LoginRefused:
        since, following = iso(known.since), iso(self._next_at(known))
        return LoginRefused(
            f"{self._address} refused the log-in of {self._username} (since {since}, {known.tries} sent); "
            f"it is tried once more at {following}",
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

    def _unusable(self, error: OSError) -> StateDamaged | StateFull:
        file = str(error.filename or self.path)
        kind = StateFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StateDamaged
        return kind(
            f"{file} cannot be used: {error.strerror or error}. It counts log-ins to {self._address}; none was sent",
            remedy="Look at its rights, the free space there and who holds it (fuser -v); then run the command again.",
            retryable=True,
            file=file,
        )

    async def _note(self, change: Callable[[_Refused | None], _Kept]) -> _Kept:
        """``_replace``, or else in this object; also by who is cancelled while another process holds the lock."""
        return await _to_its_end(self._noted(change))

    async def _noted(self, change: Callable[[_Refused | None], _Kept]) -> _Kept:
        try:
            return await self._replace(change)
        except OSError as error:
            log.warning("prism.breaker-not-written", path=str(self.path), said=str(error))
            self._unwritten = kept = change(self._unwritten)
            return kept

    async def _replace(self, change: Callable[[_Refused | None], _Kept]) -> _Kept:
        """What is known of this secret by what ``change`` makes of it, alone among all processes. Raises OSError."""
        known = self._known(self._read(self.path))
        kept = change(known)
        if kept == known:
            return kept
        lock = self.path.with_name("lock")
        async with locked(lock, fcntl.LOCK_EX, self._clock, within_s=_LOCK_WITHIN_S):
            record = self._read(self.path)
            kept = change(self._known(record))
            self._write(record, kept)
        self._unwritten = None
        return kept

    def _known(self, record: _Record) -> _Refused | None:
        """Of this secret: as written, or else as this object remembers."""
        written = record.refused.get(self._hash(record)) if record.refused else None
        return written or self._unwritten

    def _write(self, record: _Record, mine: _Refused | None) -> None:
        secret_hash = self._hash(record)
        record.refused.pop(secret_hash, None)
        if mine is not None:
            record.refused[secret_hash] = mine
        record.refused = dict(list(record.refused.items())[-_REMEMBERED:])
        if not record.refused:
            self.path.unlink(missing_ok=True)
            return
        fresh = self.path.with_suffix(".new")
        fresh.touch(mode=0o600)
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"prism": str(self._address), **asdict(record)}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)

    def _read(self, path: Path) -> _Record:
        """A torn or missing file says nothing about the password: one more try is what it costs. Raises OSError."""
        try:
            found = json.loads(path.read_text("utf-8"))
            refused = {
                str(key): _Refused(float(one["since"]), float(one["last_at"]), int(one["tries"]))
                for key, one in found["refused"].items()
            }
            return _Record(str(found["user"]), bytes.fromhex(found["salt"]).hex(), refused)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return _Record(self._username)

    def _hash(self, record: _Record) -> str:
        salt = bytes.fromhex(record.salt)
        return hashlib.scrypt(self._secret.encode(), salt=salt, dklen=32, **_COST).hex()


async def _to_its_end(work: Coroutine[Any, Any, _Kept]) -> _Kept:
    """Await it even where we are cancelled meanwhile; that is raised afterwards."""
    wish: asyncio.CancelledError | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as cancelled:
                wish = cancelled
    if wish is not None:
        raise wish
    return task.result()
