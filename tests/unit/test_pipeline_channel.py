"""Channel: bounded, and closed from either end."""

from __future__ import annotations

import threading

import pytest

from mover.pipeline.channel import Channel, Closed
from tests.support.threads import spawn


def test_a_channel_is_bounded_and_closes_from_either_end():
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.put(2)
    ended = []

    def put() -> None:
        try:
            channel.put(3)
        except Closed:
            ended.append("closed")

    (putter,) = spawn(put)
    while channel.statistics().waiting != 2:
        threading.Event().wait(0.001)
    assert channel.get() == 1
    putter.join(10)
    channel.close()
    with pytest.raises(Closed):
        channel.put(4)
    assert [channel.get(), channel.get()] == [2, 3]
    with pytest.raises(Closed):
        channel.get()
    assert not ended
    statistics = channel.statistics()
    assert (statistics.items, statistics.waiting, statistics.most_waiting) == (3, 0, 2)


def test_discarding_returns_what_was_inside_and_wakes_all():
    channel: Channel[int] = Channel(1)
    channel.put(1)
    ended = []

    def put() -> None:
        try:
            channel.put(2)
        except Closed:
            ended.append("put")

    (putter,) = spawn(put)
    assert channel.close(discard=True) in ([1], [1, 2])
    putter.join(10)
    assert not putter.is_alive()
    with pytest.raises(Closed):
        channel.get()
