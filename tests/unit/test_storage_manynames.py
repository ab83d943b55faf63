"""Many names: in order, each once as it was given, and small."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.storage import manynames
from mover.storage.manynames import ManyNames

NAMES = st.lists(st.text("abz01/-._", min_size=1, max_size=8), max_size=60)


@given(names=NAMES, run=st.integers(1, 9))
def test_they_come_back_sorted_again_and_again(names: list[str], run: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manynames, "_RUN", run)
        found = ManyNames(iter(names))
    assert list(found) == sorted(names) == list(found)
    assert bool(found) == bool(names)


def test_each_costs_about_what_it_is_long():
    dice, count = random.Random(1), 50_000
    tracemalloc.start()
    try:
        found = ManyNames(f"index/{dice.randbytes(16).hex()}-00000000" for _ in range(count))
        held, peak = tracemalloc.get_traced_memory()
        read = sum(1 for _ in found)
        _, peak_read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == count
    assert held < count * 50
    assert max(peak, peak_read) < held + (1 << 20)
