"""The series of disks: bounded, ended, true while somebody moves bytes and after."""

from __future__ import annotations

import asyncio

import pytest

from mover.clock import FakeClock
from mover.metrics import REGISTRY
from mover.operations.progress import DiskWatch, ignore_progress
from mover.operations.series import DiskSeries
from mover.pipeline.flow import Count, Meter

GRACE_S = 120.0


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def series(clock):
    made = DiskSeries(clock, most=2, grace_s=GRACE_S)
    yield made
    for own in list(made._own.values()):
        for share in list(own.shares):
            made.end(share)
    clock.elapsed += GRACE_S
    made.expire()


def value(name, vm, disk="scsi.0", **more):
    return REGISTRY.get_sample_value(f"mover_disk_{name}", {"vm": vm, "disk": disk, **more})


def bytes_of(vm, stage="read"):
    return value("bytes_total", vm, stage=stage)


def dropped():
    return REGISTRY.get_sample_value("mover_series_dropped_total")


def feed(series, share, size, *, passed_s=1.0, done=0.5):
    series.feed(share, {"read": Count(1, size, 0.25)}, passed_s=passed_s, done_ratio=done)


def test_series_begin_at_nothing_and_end_after_the_grace(series, clock):
    share = series.begin("ends", "scsi.0", ("read", "stored"))
    assert bytes_of("ends") == bytes_of("ends", "stored") == 0
    feed(series, share, 1000)
    assert value("bytes_per_second", "ends", stage="read") == 1000
    assert value("stage_busy_seconds_total", "ends", stage="read") == 0.25
    series.end(share)
    assert value("bytes_per_second", "ends", stage="read") == 0
    clock.elapsed += GRACE_S - 1
    series.expire()
    assert (bytes_of("ends"), value("progress_ratio", "ends")) == (1000, 0.5)
    clock.elapsed += 1
    series.expire()
    names = ("bytes_total", "bytes_per_second", "stage_busy_seconds_total")
    assert [value(name, "ends", stage="read") for name in names] == [None, None, None]
    assert value("progress_ratio", "ends") is None


def test_a_disk_that_comes_back_within_the_grace_counts_on(series, clock):
    share = series.begin("again", "scsi.0", ("read",))
    feed(series, share, 1000)
    series.end(share)
    clock.elapsed += GRACE_S / 2
    share = series.begin("again", "scsi.0", ("read",))
    feed(series, share, 500)
    clock.elapsed += GRACE_S
    series.expire()
    assert bytes_of("again") == 1500


def test_beyond_the_cap_the_disk_that_ended_first_makes_room(series, clock):
    before = dropped()
    first = series.begin("first", "scsi.0", ("read",))
    second = series.begin("second", "scsi.0", ("read",))
    without = series.begin("third", "scsi.0", ("read",))
    feed(series, without, 1000)
    series.end(without)
    assert bytes_of("third") is None
    assert dropped() == before + 1
    series.end(second)
    clock.elapsed += 1
    series.end(first)
    series.begin("third", "scsi.0", ("read",))
    assert [bytes_of(vm) for vm in ("first", "second", "third")] == [0, None, 0]
    assert dropped() == before + 2


def test_two_jobs_on_one_disk_add_up(series):
    one = series.begin("both", "scsi.0", ("read",))
    other = series.begin("both", "scsi.0", ("read",))
    feed(series, one, 1000)
    feed(series, other, 300)
    assert value("bytes_per_second", "both", stage="read") == 1300
    series.end(one)
    assert value("bytes_per_second", "both", stage="read") == 300
    assert bytes_of("both") == 1300


def watch_of(series, clock, vm):
    return DiskWatch(ignore_progress, clock, job="j", vm=vm, disk="scsi.0", series=series)


def node_bytes():
    return REGISTRY.get_sample_value("mover_bytes_total", {"stage": "read"}) or 0.0


def node_busy():
    return REGISTRY.get_sample_value("mover_stage_seconds_total", {"stage": "read", "state": "busy"}) or 0.0


async def test_what_a_failing_disk_moved_is_counted_to_its_last_byte(series, clock):
    watch, meter = watch_of(series, clock, "fails"), Meter()
    total, busy = node_bytes(), node_busy()

    async def work():
        meter.plan(100)
        await asyncio.sleep(0)
        meter.add("read", size_bytes=40, seconds=2.0)
        meter.advance(40)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await watch.during("copy", meter, work())
    watch.close()
    assert bytes_of("fails") == 40
    assert node_bytes() == total + 40
    assert node_busy() == busy + 2.0
    assert value("progress_ratio", "fails") == 0.4
    assert value("bytes_per_second", "fails", stage="read") == 0


async def test_a_repeated_phase_counts_on(series, clock):
    """The list of changes lied: the disk is read once more by the same watch."""
    watch, meter = watch_of(series, clock, "twice"), Meter()

    async def work():
        meter.plan(10)
        meter.add("read", size_bytes=10)

    for _ in range(2):
        await watch.during("copy", meter, work())
    watch.close()
    assert bytes_of("twice") == 20


async def test_without_series_of_its_own_a_disk_counts_in_the_totals(series, clock):
    meter, total = Meter(), node_bytes()
    for vm in ("taken1", "taken2"):
        series.begin(vm, "scsi.0", ())

    async def work():
        meter.add("read", size_bytes=10)

    watch = watch_of(series, clock, "uncounted")
    await watch.during("copy", meter, work())
    watch.close()
    assert bytes_of("uncounted") is None
    assert node_bytes() == total + 10
