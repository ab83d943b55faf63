"""The search for settings: noise proposes nothing, a gain is found, an interruption keeps what was found."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from mover.config import Settings
from mover.errors import ConfigError, UsageError
from mover.operations.knobs import knobs, with_change, written
from mover.operations.tuning import BACKUP, CONFIRM_ROUNDS, PHASES, PRESENT, RESTORE, Cost, Knob, Search, chance, judge

READERS = Knob("data.readers", 4, (2, 8), (BACKUP,))
LEVEL = Knob("data.level", 1, (-1,), (BACKUP,))
RESTORERS = Knob("data.restore_threads", 4, (2, 8), (RESTORE,))


class World:
    """A machine with known truths: what each change does to the seconds, under noise of a known size."""

    def __init__(self, effects=None, *, noise=0.05, stored=None, seed=0, runs=10_000):
        self.effects, self.stored, self.noise = effects or {}, stored or {}, noise
        self.dice = random.Random(seed)
        self.runs, self.done = runs, 0
        self.asked = []

    def left(self):
        return 1 - self.done / self.runs

    async def measure(self, change, phases):
        self.done += 1
        self.asked.append((change, phases))
        seconds, stored = dict.fromkeys(PHASES, 2.0), 1000.0
        for item in change:
            effect = self.effects.get(item, (BACKUP, 1.0))
            if isinstance(effect, Exception):
                raise effect
            seconds[effect[0]] *= effect[1]
            stored *= self.stored.get(item, 1.0)
        noisy = {phase: value * self.dice.lognormvariate(0, self.noise) for phase, value in seconds.items()}
        return Cost({phase: noisy[phase] for phase in phases}, int(stored))

    def search(self, *turned):
        return Search(turned, self.measure, self.left, random.Random(7))


async def found(world, *turned):
    search = world.search(*turned)
    await search.run()
    return search.finding()


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
async def test_noise_alone_proposes_nothing(noise):
    wrong = 0
    for seed in range(30):
        finding = await found(World(noise=noise, seed=seed), READERS, RESTORERS)
        assert finding.is_complete
        wrong += finding.change != PRESENT
    assert wrong <= 2


async def test_a_real_gain_is_found_and_named():
    finding = await found(World({("data.readers", 8): (BACKUP, 0.8)}), READERS, LEVEL)
    assert finding.change == (("data.readers", 8),)
    assert finding.verdict.low <= 0.2 <= finding.verdict.high + 0.03
    assert finding.verdict.confidence >= 0.95


async def test_a_worse_value_is_not_taken():
    finding = await found(World({("data.readers", 8): (BACKUP, 1.3), ("data.readers", 2): (BACKUP, 1.2)}), READERS)
    assert finding.change == PRESENT


async def test_gains_of_several_settings_are_measured_together_before_they_are_proposed():
    world = World({("data.readers", 8): (BACKUP, 0.8), ("data.restore_threads", 2): (RESTORE, 0.7)})
    finding = await found(world, READERS, RESTORERS)
    assert finding.change == (("data.readers", 8), ("data.restore_threads", 2))
    assert finding.verdict.change == finding.change
    assert finding.verdict.rounds >= CONFIRM_ROUNDS[0]
    assert 0.2 <= finding.verdict.gain <= 0.3


async def test_each_setting_is_judged_by_the_seconds_that_it_can_change():
    finding = await found(World({("data.restore_threads", 8): (BACKUP, 0.5)}), RESTORERS)
    assert finding.change == PRESENT


async def test_what_stores_more_is_a_bargain_not_a_gain():
    world = World({("data.level", -1): (BACKUP, 0.6)}, stored={("data.level", -1): 1.2})
    finding = await found(world, LEVEL, READERS)
    assert finding.change == PRESENT
    assert [one.change for one in finding.bargains] == [(("data.level", -1),)]
    assert finding.bargains[0].stored_ratio == pytest.approx(1.2)


async def test_a_value_that_cannot_be_is_named_and_left_out():
    refusal = ConfigError("too small", remedy="more")
    world = World({("data.readers", 2): refusal, ("data.readers", 8): (BACKUP, 0.7)})
    finding = await found(world, READERS)
    assert finding.failed == {(("data.readers", 2),): "too small"}
    assert finding.change == (("data.readers", 8),)
    assert [change for change, _ in world.asked].count((("data.readers", 2),)) == 1


async def test_where_the_present_settings_fail_the_search_does():
    async def fails(*_):
        raise ConfigError("no", remedy="yes")

    with pytest.raises(ConfigError):
        await Search([READERS], fails, lambda: 1.0, random.Random(1)).run()


@pytest.mark.parametrize("runs", [1, 5, 13, 20, 29])
async def test_when_time_is_over_nothing_half_proven_is_proposed(runs):
    world = World({("data.readers", 8): (BACKUP, 0.5)}, runs=runs)
    finding = await found(world, READERS)
    assert world.done <= runs
    assert not finding.is_complete
    assert finding.change == PRESENT


async def test_an_interruption_keeps_what_was_confirmed():
    world = World({("data.readers", 8): (BACKUP, 0.5), ("data.restore_threads", 2): (RESTORE, 0.5)}, noise=0.02)
    search = world.search(READERS, RESTORERS)
    measure = world.measure

    async def interrupted(change, phases):
        if len(change) == 2:
            raise asyncio.CancelledError
        return await measure(change, phases)

    search.measure = interrupted
    with pytest.raises(asyncio.CancelledError):
        await search.run()
    finding = search.finding()
    assert not finding.is_complete
    assert len(finding.change) == 1
    assert finding.verdict.gain > 0.4


async def test_an_interruption_at_the_beginning_has_nothing_to_say():
    finding = World().search(READERS).finding()
    assert (finding.change, finding.verdict, finding.is_complete) == (PRESENT, None, False)


def test_chance_is_exact():
    assert chance(np.array([1.0, 2.0, 3.0])) == 1 / 8
    assert chance(np.array([-1.0, -2.0, -3.0])) == 1.0
    assert chance(np.array([])) == 1.0


def test_pairs_come_from_the_same_round_only():
    rounds = [{PRESENT: Cost({BACKUP: 2.0}, 10)}, {(("a.b", 1),): Cost({BACKUP: 1.0}, 10)}]
    assert judge(rounds, (("a.b", 1),), (BACKUP,)) is None


# --- which settings ------------------------------------------------------------------------------------


def test_every_setting_that_is_turned_is_one_and_never_to_its_present_value():
    settings = Settings()
    for knob in knobs(settings, cores=2, only=(), is_folder=True):
        assert knob.present not in knob.values
        for value in knob.values:
            changed = with_change(settings, ((knob.name, value),))
            section, key = knob.name.split(".")
            assert getattr(getattr(changed, section), key) == value
            assert getattr(Settings.model_validate({section: {key: written(knob.name, value)}}), section) == getattr(
                changed, section
            )


def test_a_distant_store_is_not_judged_by_a_folder():
    names = {knob.name for knob in knobs(Settings(), cores=2, only=(), is_folder=False)}
    assert "data.readers" in names
    assert not [name for name in names if name.startswith("repository.")]
    with pytest.raises(UsageError, match="for a folder only"):
        knobs(Settings(), cores=2, only=("repository.uploads",), is_folder=False)


def test_a_setting_that_cannot_be_tuned_is_refused_with_those_that_can():
    with pytest.raises(UsageError, match=r"data\.block_size") as refused:
        knobs(Settings(), cores=2, only=("data.block_size",), is_folder=True)
    assert "data.readers" in refused.value.remedy
