"""The daemon as a process, killed, stopped and started again: what Prometheus would read each time."""

from __future__ import annotations

import signal
import socket
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mover.clock import SystemClock, pause
from tests.support.commandline import TWO
from tests.support.commandline import desk as new_desk
from tests.support.processes import Process

PATIENCE_S = 60.0
CLOCK = SystemClock()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, certificates):
    with new_desk(tmp_path_factory.mktemp("desk"), certificates, vms=(TWO,)) as made:
        yield made


class Daemon:
    """A running ``serve``, seen by its scrapes alone."""

    def __init__(self, desk: Any, **serve: Any) -> None:
        desk.write(serve={"port": 0, **serve})
        self.process = Process(desk, "serve")
        self.url = self.process.until("Serving http").split()[1].rstrip(";")

    def scrape(self) -> dict[str, float]:
        """Series → value; labels in the order of their names."""
        text = urllib.request.urlopen(self.url).read().decode()
        return {
            sample.name + ",".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def until(self, holds: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """The first scrape of which this holds."""
        end = CLOCK.monotonic() + PATIENCE_S
        while not holds(seen := self.scrape()):
            assert CLOCK.monotonic() < end, seen
            pause(0.05)
        return seen

    def reconciled(self) -> dict[str, float]:
        """A scrape after its first reconcile and recall."""
        return self.until(lambda seen: bool(seen["mover_reconcile_last_success_timestamp_seconds"]) and SUCCESS in seen)


@contextmanager
def daemon(desk: Any, ended_by: signal.Signals = signal.SIGTERM, **serve: Any):
    running = Daemon(desk, **serve)
    try:
        yield running
    finally:
        running.process.tell(ended_by)
        running.process.end()


SUCCESS = "mover_vm_last_success_timestamp_seconds{vm=two}"
FAILURE = "mover_vm_last_failure_timestamp_seconds{vm=two}"
PROGRESS = "mover_job_last_progress_timestamp_seconds{operation=backup},{vm=two}"
DAMAGED = "mover_vm_damaged_points{vm=two}"
VERIFIED = "mover_vm_last_verified_timestamp_seconds{vm=two}"


def jobs(seen: dict[str, float]) -> list[float]:
    outcomes = ("done", "failed", "cancelled", "interrupted")
    return [seen[f"mover_jobs_total{{operation=backup}},{{outcome={outcome}}}"] for outcome in outcomes]


def is_copying(seen: dict[str, float]) -> bool:
    return seen.get("mover_ledger_entries{kind=attachment}", 0) > 0 and PROGRESS in seen


def order(desk: Any) -> None:
    """A job for the daemon, and nobody who waits for it."""
    client = Process(desk, "backup", "two", "--full")
    client.until("is handed to it")
    client.tell(signal.SIGKILL)
    client.end()


def healthy(seen: dict[str, float]) -> None:
    """What no alert may find fault with."""
    for name in ("build_info", "node_info", "store_reachable", "prism_reachable"):
        assert [value for series, value in seen.items() if series.startswith(f"mover_{name}")] == [1], name
    [expiry] = [value for series, value in seen.items() if series.startswith("mover_prism_certificate_expiry")]
    assert expiry > CLOCK.now()
    assert not any(value for name, value in seen.items() if name.startswith("mover_orphans{"))
    assert seen["process_resident_memory_bytes"] > 1 << 20


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_daemon_cut_off_in_mid_job_leaves_neither_red_nor_green(desk, end):
    desk.fresh()
    first_point = desk.backed_up("two")
    with daemon(desk, end) as first:
        before = first.reconciled()
        assert jobs(before) == [0, 0, 0, 0]
        desk.lab.faults.arm("task_slow", operation="v2.vms.disks.attach", count=0, seconds=2.0)
        order(desk)
        during = first.until(is_copying)
        assert during[SUCCESS] == before[SUCCESS]
        assert during["mover_jobs_running{operation=backup}"] == 1
        assert FAILURE not in during
    desk.lab.faults.disarm()
    with daemon(desk) as second:
        second.until(lambda seen: seen.get(SUCCESS, 0) > before[SUCCESS])
        after = second.until(lambda seen: jobs(seen)[0] == 1)
        assert jobs(after) == [1, 0, 0, 0]
        assert FAILURE not in after
        assert PROGRESS not in after
        healthy(second.reconciled())
    newest = desk.run("points", "--json").json["points"][-1]
    assert newest["point"] != first_point["point"]
    desk.nothing_is_left(bases=1)


def test_what_other_commands_find_and_what_failed_outlives_restarts(desk):
    desk.fresh()
    point = desk.backed_up("two")
    desk.verified("two")
    with daemon(desk) as running:
        running.until(lambda seen: seen.get("mover_vm_present{vm=two}") == 1)
        seen = running.reconciled()
        assert CLOCK.now() - 300 < seen[VERIFIED] <= CLOCK.now()
        assert (seen[DAMAGED], FAILURE in seen) == (0, False)
        desk.lab.faults.arm("task_fails", operation="v2.vms.disks.attach", count=0)
        assert desk.process("backup", "two", "--full").code != 0
        desk.lab.faults.disarm()
        seen = running.scrape()
        assert (jobs(seen)[1], seen[FAILURE] > seen[SUCCESS]) == (1, True)
    pack = next(path for path in (desk.repository / "packs").rglob("*") if path.is_file())
    damaged = bytearray(pack.read_bytes())
    damaged[300] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(damaged)
    assert desk.run("verify", "two").error_code == "repository.damaged"
    with daemon(desk) as running:
        again = running.until(lambda seen: seen.get(DAMAGED) == 1)
        assert (again[FAILURE], again[VERIFIED], again[SUCCESS]) == (seen[FAILURE], seen[VERIFIED], seen[SUCCESS])
        assert jobs(again)[1] == 0
    assert desk.points() == [point["point"]]


def disks_with_series(seen: dict[str, float]) -> set[str]:
    """Whatever of a disk's is still exposed, by disk."""
    return {name.partition("{disk=")[2].partition("}")[0] for name in seen if name.startswith("mover_disk_")}


def test_series_of_disks_are_capped_and_end_after_their_grace_and_totals_stay(desk):
    """Nobody else asks for the end of a series: no other disk begins, and the daemon idles."""
    desk.fresh()
    total = "mover_bytes_total{stage=read}"
    with daemon(desk, disk_series=1, series_grace="1s") as running:
        assert not disks_with_series(running.scrape())
        order(desk)
        seen = [running.until(disks_with_series)]

        def is_over(scrape: dict[str, float]) -> bool:
            seen.append(scrape)
            return jobs(scrape)[0] == 1 and not disks_with_series(scrape)

        end = running.until(is_over)
        assert max(len(disks_with_series(scrape)) for scrape in seen) == 1
        assert end["mover_series_dropped_total"] == 1
        totals = [scrape[total] for scrape in seen]
        assert totals == sorted(totals)
        assert end[total] >= sum(disk.size_bytes for disk in TWO.disks)


def test_an_address_that_cannot_be_had_is_said_before_a_job_goes_on(desk):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for host, words in (("127.0.0.1", "is in use"), ("192.0.2.1", "not an address of this machine")):
            refused = desk.run("serve", "--host", host, "--port", str(port))
            refused.refuses(2, "usage", words, "serve.")
    desk.run("serve", "--host", "no.such.host.invalid").refuses(2, "usage", "serve.host", "resolves")
