"""The search for better settings, and when a difference counts as one.

Three stages, each with measurements of its own, so that none is judged by the luck it was picked
for: *screen* (each value of each setting), *confirm* (the best value of each), *together* (what
was confirmed, all at once). Within a round everything is measured once, in shuffled order, the
present settings twice: what those two differ by is noise. Pure but for the measuring handed in.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mover.clock import Dice
from mover.errors import MoverError

BACKUP, RESTORE = "backup", "restore"
PHASES = (BACKUP, RESTORE)

SCREEN_ROUNDS = 3
CONFIRM_ROUNDS = (6, 12)
"""At least, at most. Six fair coins fall alike once in 64: fewer rounds prove nothing."""
LEAST_GAIN = 0.02
"""Share of the time. Below it a change is not worth a line in a settings file."""
MORE_STORED = 1.01
"""A value that stores more than 1 % more is no gain in speed but a bargain, which is the operator's."""
DOUBT = 0.05
"""Chance that something is proposed where nothing is better, over all that is confirmed together."""
_RESAMPLES = 2000

Change = tuple[tuple[str, int], ...]
"""Settings that differ from the present ones: dotted name, value. Empty: the present ones."""
PRESENT: Change = ()
_TWIN: Change = (("", 0),)
"""The present settings, measured once more."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting, the value that it has, those to try, and whose seconds it may change."""

    name: str
    present: int
    values: tuple[int, ...]
    phases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """One measurement. seconds: by phase."""

    seconds: Mapping[str, float]
    stored_bytes: int

    def of(self, phases: Sequence[str]) -> float:
        return sum(self.seconds[phase] for phase in phases)


Measure = Callable[[Change, tuple[str, ...]], Awaitable[Cost]]
Round = dict[Change, Cost]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a change gains. gain: share of the time that it saves, median; low, high: 90 % interval."""

    change: Change
    gain: float
    low: float
    high: float
    noise: float
    """What the present settings differ by from themselves, as a share."""
    confidence: float
    """1 - the chance of such rounds where nothing is better than noise; corrected for how many were tried."""
    stored_ratio: float
    rounds: int

    @property
    def counts(self) -> bool:
        return (
            self.rounds >= CONFIRM_ROUNDS[0]
            and self.confidence >= 1 - DOUBT
            and self.gain >= max(LEAST_GAIN, self.noise)
            and self.stored_ratio <= MORE_STORED
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """What can be said now. change: what is proposed; verdict: of all of it together."""

    change: Change
    verdict: Verdict | None
    looked_at: tuple[Verdict, ...]
    """What was confirmed or not, each by itself."""
    bargains: tuple[Verdict, ...]
    """Faster, but stores more."""
    failed: Mapping[Change, str]
    is_complete: bool


def judge(rounds: Sequence[Round], change: Change, phases: Sequence[str], *, tried: int = 1) -> Verdict | None:
    """Pairs within rounds; None where no round holds both. tried: how many changes share the doubt."""
    pairs = [one for one in rounds if change in one and PRESENT in one]
    if not pairs:
        return None
    gains = np.array([math.log(one[PRESENT].of(phases) / one[change].of(phases)) for one in pairs])
    twins = [math.log(one[PRESENT].of(phases) / one[_TWIN].of(phases)) for one in pairs if _TWIN in one]
    noise = abs(float(np.median(twins))) if twins else 0.0
    low, high = _interval(gains)
    stored = [one[change].stored_bytes / max(1, one[PRESENT].stored_bytes) for one in pairs]
    return Verdict(
        change=change,
        gain=_share(float(np.median(gains))),
        low=_share(low),
        high=_share(high),
        noise=_share(noise),
        confidence=max(0.0, 1 - tried * chance(gains - noise)),
        stored_ratio=float(np.median(stored)),
        rounds=len(pairs),
    )


def chance(values: NDArray[np.float64]) -> float:
    """Of a sum as large as this one, were each sign a fair coin: exact, over all 2^n signs."""
    if len(values) == 0:
        return 1.0
    bits = (np.arange(1 << len(values))[:, None] >> np.arange(len(values))) & 1
    sums = (1 - 2 * bits) @ np.abs(values)
    return float(np.mean(sums >= values.sum() - 1e-12))


def _interval(gains: NDArray[np.float64]) -> tuple[float, float]:
    """Bootstrap of the median; seeded, so that the same rounds say the same."""
    dice = np.random.default_rng(1)
    medians = np.median(dice.choice(gains, (_RESAMPLES, len(gains))), axis=1)
    return float(np.quantile(medians, 0.05)), float(np.quantile(medians, 0.95))


def _share(log_ratio: float) -> float:
    """log(present / new) → share of the present time that is saved."""
    return 1 - math.exp(-log_ratio)


@dataclass(slots=True)
class Search:
    """One search. ``finding`` answers at any time, also after ``run`` was cancelled.

    left: share of the time that is left, 1 → 0. tell: stage, round, measurements of the round.
    """

    knobs: Sequence[Knob]
    measure: Measure
    left: Callable[[], float]
    dice: Dice
    tell: Callable[[str, int, int], None] = lambda *_: None
    _screen: list[Round] = field(default_factory=list)
    _confirm: list[Round] = field(default_factory=list)
    _together: list[Round] = field(default_factory=list)
    _picked: list[Change] = field(default_factory=list)
    _failed: dict[Change, str] = field(default_factory=dict)
    _is_complete: bool = False

    async def run(self) -> None:
        """Until all stages are done or the time is over."""
        singles = [((knob.name, value),) for knob in self.knobs for value in knob.values]
        for number in range(SCREEN_ROUNDS):
            if self.left() <= 0.5 and number:
                break
            await self._round("screen", number, self._screen, singles)
        self._picked = self._best()
        await self._stage("confirm", self._confirm, self._picked, until=0.2)
        kept = self._kept()
        if len(kept) > 1:
            await self._stage("together", self._together, [_joined(kept)], until=0.0)
        self._is_complete = self._has_all(singles)

    def _has_all(self, singles: Sequence[Change]) -> bool:
        """Each round of the first stage is whole, and what was picked was measured as often as a proof needs."""
        kept, looked_at = self._kept(), self._confirmed()
        joined = self._verdict(self._together, _joined(kept)) if len(kept) > 1 else None
        proofs = [*looked_at, *([joined] if joined else [])]
        return (
            all(len(one) + len(self._failed) >= len(singles) + 2 for one in self._screen)
            and {one.change for one in looked_at} | set(self._failed) >= set(self._picked)
            and (joined is not None or len(kept) < 2)
            and all(one.rounds >= CONFIRM_ROUNDS[0] for one in proofs)
        )

    async def _stage(self, stage: str, rounds: list[Round], changes: list[Change], *, until: float) -> None:
        least, most = CONFIRM_ROUNDS
        for number in range(most if changes else 0):
            if self.left() <= (until if number >= least else 0.0):
                return
            await self._round(stage, number, rounds, changes)

    async def _round(self, stage: str, number: int, rounds: list[Round], changes: Sequence[Change]) -> None:
        """One measurement each, in an order of its own; those that cannot be are left out from then on."""
        order = [PRESENT, _TWIN, *(change for change in changes if change not in self._failed)]
        self.tell(stage, number + 1, len(order))
        self.dice.shuffle(order)
        found: Round = {}
        rounds.append(found)
        for change in order:
            if self.left() <= 0.0:
                return
            settings = PRESENT if change == _TWIN else change
            try:
                found[change] = await self.measure(settings, self._phases(change))
            except MoverError as error:
                if settings == PRESENT:
                    raise
                self._failed[change] = error.message

    def _phases(self, change: Change) -> tuple[str, ...]:
        """The present settings are measured in all: they are compared with everything."""
        touched = {phase for knob in self.knobs if (knob.name in dict(change)) for phase in knob.phases}
        wanted = touched or {phase for knob in self.knobs for phase in knob.phases}
        # A restore needs something that was backed up.
        return tuple(phase for phase in PHASES if phase in wanted or phase == BACKUP)

    def _judged_by(self, change: Change) -> tuple[str, ...]:
        touched = {phase for knob in self.knobs if knob.name in dict(change) for phase in knob.phases}
        return tuple(phase for phase in PHASES if phase in touched)

    def _verdict(self, rounds: Sequence[Round], change: Change, tried: int = 1) -> Verdict | None:
        return judge(rounds, change, self._judged_by(change), tried=tried)

    def _best(self) -> list[Change]:
        """Of each setting the value that looked best, where it looked better than nothing."""
        best: dict[str, Verdict] = {}
        for one in self._screened():
            name = one.change[0][0]
            is_gain = one.gain >= LEAST_GAIN and one.stored_ratio <= MORE_STORED
            if is_gain and (name not in best or one.gain > best[name].gain):
                best[name] = one
        return [one.change for one in best.values()]

    def _screened(self) -> list[Verdict]:
        singles = [((knob.name, value),) for knob in self.knobs for value in knob.values]
        found = [self._verdict(self._screen, change) for change in singles if change not in self._failed]
        return [one for one in found if one is not None]

    def _confirmed(self) -> list[Verdict]:
        found = [self._verdict(self._confirm, change, len(self._picked)) for change in self._picked]
        return [one for one in found if one is not None]

    def _kept(self) -> list[Change]:
        return [one.change for one in self._confirmed() if one.counts]

    def finding(self) -> Finding:
        """Of what has been measured so far."""
        looked_at = self._confirmed()
        counting = sorted((one for one in looked_at if one.counts), key=lambda one: -one.gain)
        best = counting[0] if counting else None
        if len(counting) > 1:
            joined = self._verdict(self._together, _joined([one.change for one in counting]))
            # Where all at once was not proven, the best alone was.
            best = joined if joined is not None and joined.counts else best
        return Finding(
            change=best.change if best else PRESENT,
            verdict=best,
            looked_at=tuple(looked_at),
            bargains=tuple(
                one for one in self._screened() if one.gain >= LEAST_GAIN and one.stored_ratio > MORE_STORED
            ),
            failed=dict(self._failed),
            is_complete=self._is_complete,
        )


def _joined(changes: Sequence[Change]) -> Change:
    return tuple(sorted(item for change in changes for item in change))
