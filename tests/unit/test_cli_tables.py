"""Tables and live rows fit 80 columns, whatever the names; figures stay whole."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console as RichConsole

from mover.cli import tables
from mover.cli.progress import LiveDisks, Pace, PhaseLines, label, make_display, watching
from mover.clock import FakeClock
from mover.errors import StoreFull
from mover.jobs.book import Job, JobState
from mover.operations.progress import Progress as Event
from mover.units import GIB, MIB, TIB

LONG = "a-virtual-machine-with-a-very-long-name-indeed-0042"
UUID = "c29a1e35-210f-4f1a-b61a-cb19fb85277f"


def drawn(*items, width: int = 80) -> str:
    out = io.StringIO()
    console = RichConsole(file=out, width=width)
    for item in items:
        console.print(item)
    return out.getvalue()


def disk(**more):
    return {
        "disk": "scsi.127",
        "size_bytes": 62 * TIB,
        "bytes_read": 999 * GIB,
        "bytes_new": 888 * GIB,
        "bytes_stored": 777 * GIB,
        "mode": "incremental",
        "reason": "changes since 1234",
        "seconds": {"copy": 86_000.0},
        "rate": 1.5e9,
        "changed_ratio": 1.0,
        **more,
    }


REPORT = {"vm": LONG, "point": UUID, "consistency": "crash", "disks": [disk()], "warnings": ["w"]}
POINT = {
    "point": UUID,
    "vm": LONG,
    "frozen_at": "2026-11-22T18:02:49Z",
    "size_bytes": 62 * TIB,
    "bytes_read": 999 * GIB,
    "bytes_stored": 777 * GIB,
    "mode": "incremental",
    "is_base": True,
    "problem": None,
}
FAILED = Job(
    id="4f703166731e4c01",
    attempt=1,
    operation="restore-disk",
    request={"vm_name": LONG},
    state=JobState.FAILED,
    created_at=1.8e9,
    changed_at=1.8e9,
    error=StoreFull("full", remedy="free"),
)
CHECK = {"subject": "state folder", "state": "problem", "what": "x" * 150, "remedy": "Do " + "this " * 40}
ORPHAN = {
    "action": "delete snapshot",
    "identity": UUID,
    "job": "4f703166731e4c01",
    "reason": "why " * 30,
    "error": None,
}
DEMO = {**disk(disk="scsi.0", size_bytes=GIB), "vm": "files01", "verified": True}


@pytest.mark.parametrize(
    "table",
    [
        tables.disks_table([REPORT]),
        tables.points_table([POINT, {**POINT, "problem": "damaged"}]),
        tables.jobs_table([FAILED]),
        tables.checks_table([CHECK]),
        tables.orphans_table([ORPHAN]),
        tables.demo_table([DEMO]),
        tables.backup_notes([REPORT]),
    ],
    ids=["disks", "points", "jobs", "checks", "orphans", "demo", "notes"],
)
def test_everything_fits_eighty_columns(table):
    lines = drawn(table).splitlines()
    assert lines
    assert max(map(len, lines)) <= 80


@pytest.fixture
def zone(monkeypatch):
    """Sets this machine's zone, for one test."""

    def put(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


def test_times_are_local_and_name_their_zone(zone):
    zone("IST-5:30")
    points, jobs = drawn(tables.points_table([{**POINT, "vm": "web01"}])), drawn(tables.jobs_table([FAILED]))
    assert "frozen (IST)" in points
    assert "2026-11-22 23:32:49" in points
    assert "since (IST)" in jobs
    assert "01-15 13:30" in jobs
    words = tables.point_named({"point": "p", "point_vm": "web01", "frozen_at": POINT["frozen_at"]})
    assert words == "point p of web01, frozen 2026-11-22 23:32:49 IST"


def test_one_zone_holds_for_all_times_of_a_table(zone):
    zone("CET-1CEST,M3.5.0,M10.5.0/3")
    points = [{**POINT, "vm": "web01", "frozen_at": f"2026-{month}-15T12:00:00Z"} for month in ("01", "07")]
    shown = drawn(tables.points_table(points))
    hour = "14" if "frozen (CEST)" in shown else "13"
    assert f"2026-01-15 {hour}:00:00" in shown
    assert f"2026-07-15 {hour}:00:00" in shown


def test_a_reason_is_told_once_a_disk():
    out = io.StringIO()
    sink = PhaseLines(RichConsole(file=out, width=80))
    for phase, reason in (
        ("ask", "no base"),
        ("attach", "no base"),
        ("copy", ""),
        ("copy", "other"),
        ("done", "no base"),
    ):
        sink(Event("job", "web01", "scsi.0", phase, reason=reason))
    assert out.getvalue().splitlines() == [
        "web01 scsi.0  ask  no base",
        "web01 scsi.0  attach",
        "web01 scsi.0  copy",
        "web01 scsi.0  done",
    ]


def test_an_excluded_disk_is_called_so_once():
    left_out = disk(mode="excluded", reason="excluded by sata", disk="sata.0")
    shown = drawn(tables.backup_notes([{**REPORT, "disks": [left_out]}]))
    assert "sata.0 excluded by sata" in " ".join(shown.split())


def test_a_remedy_has_the_width_of_the_screen():
    secret = "a1b427bf" * 8
    shown = drawn(
        tables.checks_table([CHECK, {**CHECK, "remedy": f"set prism.fingerprint to {secret}, or name the CA"}])
    )
    assert secret in shown


def test_only_names_are_folded(zone):
    zone("UTC")
    text = drawn(tables.disks_table([REPORT]), tables.points_table([POINT]))
    for whole in ("scsi.127", "62.0 TiB", "1.50 GB/s", "23:53:20", "2026-11-22 18:02:49", "c29a1e35"):
        assert whole in text


def test_a_long_name_loses_its_middle_never_the_disk():
    assert label("web01", "scsi.0") == "web01 scsi.0"
    shown = label(LONG, "scsi.127")
    assert len(shown) == 20
    assert shown.startswith("a-vir")
    assert shown.endswith("0042 scsi.127")
    assert len(label(LONG, None)) == 20


# --- pace -------------------------------------------------------------------------------------------


def test_rate_and_time_left_of_a_steady_disk():
    pace = Pace()
    for second in range(11):
        pace.add(float(second), second * 100 * MIB)
    assert pace.rate == pytest.approx(100 * MIB)
    assert pace.left_s(2000 * MIB) == (pytest.approx(10.0), pytest.approx(0.0))


def test_an_unsteady_disk_has_an_error_of_its_time_left():
    pace, done = Pace(), 0
    for second in range(20):
        pace.add(float(second), done)
        done += (50 if second % 2 else 150) * MIB
    seconds, error = pace.left_s(done + 1000 * MIB)
    assert seconds == pytest.approx(10, rel=0.2)
    assert 0.5 < error < 3


def test_nothing_is_foretold_before_three_samples_or_standing_still():
    pace = Pace()
    assert (pace.rate, pace.left_s(GIB)) == (0.0, None)
    pace.add(0.0, 0)
    pace.add(1.0, MIB)
    assert pace.left_s(GIB) is None
    still = Pace()
    for second in range(5):
        still.add(float(second), 0)
    assert still.left_s(GIB) is None


def test_a_second_pass_over_the_disk_begins_anew():
    pace = Pace()
    for at, done in ((0.0, 0), (1.0, 500 * MIB), (2.0, 0), (3.0, 10 * MIB)):
        pace.add(at, done)
    assert pace.rate == pytest.approx(10 * MIB)
    assert pace.mean_rate == pytest.approx(10 * MIB)


# --- the display ------------------------------------------------------------------------------------


async def play(sink, clock) -> None:
    sink(Event("job", LONG, None, "freeze"))
    for second in range(6):
        sink(Event("job", LONG, "scsi.1", "copy", second * 100 * MIB, 900 * MIB))
        await clock.sleep(1.0)


async def test_live_rows_show_bytes_rate_and_time_left_within_eighty_columns():
    clock, out = FakeClock(), io.StringIO()
    display = make_display(RichConsole(file=out, width=80, force_terminal=True))
    sink = LiveDisks(display, clock)
    await play(sink, clock)
    text = drawn(display.get_renderable())
    assert max(map(len, text.splitlines())) <= 80
    assert "connect" not in text
    assert "freeze" not in text
    for words in ("scsi.1", "copy", "500 MiB/900 MiB", "105 MB/s", "4.0 s"):
        assert words in text
    sink(Event("job", LONG, "scsi.1", "done"))
    sink(Event("job", LONG, None, "commit"))
    text = drawn(display.get_renderable())
    assert "done" in text
    assert "commit" in text


async def test_a_pipe_gets_a_line_a_phase():
    out = io.StringIO()
    clock = FakeClock()
    with watching(RichConsole(file=out, width=80), quiet=False) as sink:
        assert isinstance(sink, PhaseLines)
        await play(sink, clock)
    assert out.getvalue().splitlines() == [f"{LONG}  freeze", f"{LONG} scsi.1  copy  900 MiB"]
