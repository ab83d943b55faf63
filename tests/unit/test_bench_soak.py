"""What soak and scale conclude from what they saw."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from bench import soak
from bench.scale import reason


def _states(memory: list[float], descriptors: list[int] | None = None, **last: int) -> list[soak.State]:
    count = len(memory)
    states = [
        soak.State(n * 10.0, int(memory[n]), descriptors[n] if descriptors else 10, 5, 0, 0, 0) for n in range(count)
    ]
    return [*states[:-1], soak.State(**({f: getattr(states[-1], f) for f in soak.State.__slots__} | last))]


def _judged(states: list[soak.State]) -> list[str]:
    growth = soak.slope([state.seconds for state in states], [state.memory for state in states])
    return soak.broken(states, growth)


@pytest.mark.parametrize("rounds", [0, 1, 7, 8, 9, 100, 1000])
def test_a_soak_keeps_few_states_evenly_and_the_last(rounds):
    watched = soak.Watched(most=8)
    for state in _states([float(number) for number in range(rounds)]) if rounds else []:
        watched.add(state)
    kept = [state.memory for state in watched.states]
    assert watched.rounds == rounds
    assert len(kept) <= 9
    assert kept[:1] == list(range(rounds))[:1]
    assert kept[-1:] == list(range(rounds))[-1:]
    assert len({after - before for before, after in pairwise(kept[:-1])}) <= 1


def test_a_soak_that_holds():
    dice = random.Random(3)
    steady = [2e8 + dice.gauss(0, 1e5) for _ in range(300)]
    flicker = [10 + n % 3 for n in range(300)]
    assert _judged(_states(steady, flicker)) == []


def test_a_warm_up_is_no_leak():
    warm = [2e8 + min(n, 80) * 1e6 for n in range(300)]
    assert _judged(_states(warm)) == []


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (_states([2e8 + n * 4096 * 16 for n in range(300)]), "memory grows"),
        (_states([2e8] * 300, list(range(300))), "descriptors grow"),
        (_states([2e8] * 10, budget=1), "never given back"),
        (_states([2e8] * 10, sessions=2), "2 sessions are open"),
    ],
)
def test_a_soak_that_breaks(states, said):
    assert any(said in problem for problem in _judged(states))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"kept": 0.95}, "the disks give no more"),
        ({"cores": 0.97, "computing": 1.0}, "the cores are busy"),
        ({"computing": 0.95, "cores": 0.4}, "compute threads are busy"),
        ({"budget_wait": 0.5}, "raise data.budget"),
        ({"reading": 0.95}, "woken late"),
        ({}, "handing over"),
    ],
)
def test_why_it_is_flat(shares, said):
    none = dict.fromkeys(("kept", "cores", "computing", "reading", "budget_wait"), 0.1)
    assert said in reason(none | shares)
