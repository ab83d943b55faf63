"""A real Prometheus, with the project's rules, watches a real daemon at a backup, a restore, and its death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import zstandard

from mover.clock import SystemClock
from mover.lab.server import DiskSpec, VmSpec
from tests.support.commandline import MIB, Desk
from tests.support.commandline import desk as new_desk
from tests.support.programs import needs
from tests.support.promql import PROMETHEUS, Query, queries
from tests.support.servers import free_ports
from tests.support.watching import Prometheus, Server, alertmanager_in, prometheus_in, until

LEVEL = 19
IN_FLIGHT_S = 4.0
"""How long the compression of each disk of the slow VM takes: several scrapes, at one a second."""
FORMER = VmSpec(name="former", disks=(DiskSpec(size_bytes=2 * MIB),))
SLOTS = ("scsi.0", "scsi.1")
HERE, WRONG = "lab", "elsewhere"
MAY_BE_EMPTY = {
    "Calls repeated": "no call was",
    "Age of what is left for nothing": "nothing is left",
    "Devices refused": "none was",
    "Last error": "there was none",
}
"""Panels that have nothing to show when all is well, and why."""
pytestmark = needs("prometheus", "prometheus-alertmanager")


def slow_vm() -> VmSpec:
    """Its disks are as large as this machine's own compression makes it last: in CPU seconds, since what else runs
    during this measurement may be over by then."""
    block, compressor = os.urandom(MIB), zstandard.ZstdCompressor(level=LEVEL)
    started = time.thread_time()
    for _ in range(4):
        compressor.compress(block)
    blocks = 1 + round(IN_FLIGHT_S * 4 / (time.thread_time() - started))
    return VmSpec(
        name="slow", disks=tuple(DiskSpec(size_bytes=n * MIB, content="random") for n in (blocks + 4, blocks))
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory, certificates):
    with new_desk(tmp_path_factory.mktemp("desk"), certificates, vms=(slow_vm(), FORMER)) as made:
        yield made


@pytest.fixture
def verified(desk: Desk) -> Desk:
    """A desk with one backup that was read back, before anybody watches."""
    desk.verified(desk.backed_up("former")["point"])
    return desk


@contextmanager
def daemon(desk: Desk, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``mover serve`` on this port, as a process; killed at the end if it still runs."""
    desk.write(serve={"port": port, "reconcile_every": "2s"}, data={"level": LEVEL, "compute_threads": 1})
    with (desk.place / "daemon.log").open("wb") as log:
        process = subprocess.Popen(desk.command_line("serve"), env=desk.environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class _NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@contextmanager
def another_web_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _NotFound)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.timeout(240)
def test_a_backup_is_seen_as_it_reports_itself_and_a_dead_node_is_told(verified, tmp_path):
    desk, began = verified, SystemClock().now()
    [port] = free_ports(1)
    targets = {HERE: [f"127.0.0.1:{port}"]}
    with (
        alertmanager_in(tmp_path / "alertmanager") as alertmanager,
        prometheus_in(tmp_path / "prometheus", targets, alertmanager=alertmanager) as prometheus,
        daemon(desk, port) as process,
    ):
        until(
            lambda: prometheus.value(f'mover:vm_last_success_timestamp_seconds{{cluster="{HERE}"}}'),
            what="a scrape",
        )
        reported = ordered(desk, "backup", "slow", "--full")["points"][0]
        agrees_with_the_report(prometheus, reported)
        compressing = 'max_over_time(mover:bottleneck{stage="compute"}[5m])'
        until(lambda: prometheus.value(compressing) == 1, what="the slow compression to be named as the bottleneck")
        ordered(desk, "restore", "slow", "--name", "slow-again")
        every_panel_has_data(prometheus, began)
        until(lambda: prometheus.firing() == set(), what="silence")

        process.send_signal(signal.SIGKILL)
        until(lambda: prometheus.firing() == {"MoverNodeDown"}, what="the alert, alone")
        # What it said of the VM is not lost with it.
        assert prometheus.value('mover:vm_last_success_timestamp_seconds{vm="slow"}') > began
        until(lambda: alertmanager.get("/api/v2/alerts", filter="alertname=MoverNodeDown"), what="the message")


def ordered(desk: Desk, *words: str) -> dict:
    """The report of a command whose job the daemon does."""
    done = desk.process(*words, "--json")
    assert done.code == 0, done.out + done.err
    return json.loads(done.out)


def agrees_with_the_report(prometheus: Prometheus, reported: dict) -> None:
    """Counters of each disk, read back, are what the job says that it moved; their rate was seen."""
    assert [disk["disk"] for disk in reported["disks"]] == list(SLOTS)
    for disk in reported["disks"]:
        labels = f'vm="slow", disk="{disk["disk"]}"'
        assert min(disk["bytes_read"], disk["bytes_new"], disk["bytes_stored"]) > MIB
        for stage in ("read", "new", "stored"):
            series = f'mover_disk_bytes_total{{{labels}, stage="{stage}"}}'
            until(lambda s=series, b=disk[f"bytes_{stage}"]: prometheus.value(s) == b, what=f"{series} {disk}")
        seen = prometheus.value(f'max_over_time(mover_disk_bytes_per_second{{{labels}, stage="new"}}[2m])')
        assert seen, "no scrape saw it in flight"
    moved = sum(disk["bytes_stored"] for disk in reported["disks"])
    assert prometheus.value('mover_bytes_total{stage="stored"}') == moved


def every_panel_has_data(prometheus: Prometheus, began: float) -> None:
    """Each query of each dashboard, as Grafana would send it, over the time of this test."""

    rest = queries()

    def is_complete() -> bool:
        now = SystemClock().now()
        rest[:] = [query for query in rest if not _moments(prometheus, query, began, now)]
        return {query.panel for query in rest} <= set(MAY_BE_EMPTY)

    try:
        until(is_complete, what="data")
    except AssertionError:
        raise AssertionError(f"no data: {[str(query) for query in rest if query.panel not in MAY_BE_EMPTY]}") from None


def _moments(prometheus: Prometheus, query: Query, began: float, now: float) -> int:
    expression = query.expression(rate="4s", cluster=".*", instance=".*", vm=".*")
    return sum(len(values) for _, values in prometheus.history(expression, began, now))


def test_a_wrong_target_is_told_in_the_words_of_the_readme(tmp_path):
    [nobody] = free_ports(1)
    readme = (PROMETHEUS / "README.md").read_text("utf-8")
    with another_web_server() as web, alertmanager_in(tmp_path / "alertmanager") as exporter:
        targets = [f"127.0.0.1:{nobody}", web, f"127.0.0.1:{exporter.port}", "no-such-host.invalid:9464"]
        with prometheus_in(tmp_path / "prometheus", {WRONG: targets}) as prometheus:
            words = dict(zip(targets, ("connection refused", "404 Not Found", "", "no such host"), strict=True))
            assert all(said in readme for said in words.values())
            # A scrape may also time out, of a busy machine or of its resolver: the next one says it.
            for target, said in words.items():
                until(lambda one=target, said=said: _says(prometheus, one, said), what=f"{target} to say {said!r}")
            until(lambda: prometheus.firing(instance=targets[2]) == {"MoverWrongTarget"}, what="the alert, alone")
            assert "MoverWrongTarget" in readme
            until(lambda: prometheus.firing(instance=web) == {"MoverNodeDown"}, what="the other alert")


def _says(prometheus: Prometheus, target: str, words: str) -> bool:
    """No words: it is up."""
    health, error = prometheus.targets().get(target, ("unknown", ""))
    return words in error and health == ("down" if words else "up")


def test_what_follows_from_a_dead_node_is_kept_back_but_not_an_old_point(tmp_path):
    node = {"cluster": "c1", "instance": "a", "scope": "node"}
    vm = {"cluster": "c1", "vm": "one", "scope": "vm"}
    sent = [
        {"alertname": "MoverNodeDown", "severity": "critical", **node},
        {"alertname": "MoverReconcileLate", "severity": "warning", **node},
        {"alertname": "MoverReconcileLate", "severity": "warning", **node, "instance": "b"},
        {"alertname": "MoverBackupFailed", "severity": "warning", **vm},
        {"alertname": "MoverBackupFailed", "severity": "warning", **vm, "cluster": "c2"},
        {"alertname": "MoverNoSuccess", "severity": "critical", **vm},
        {"alertname": "MoverNoSuccess", "severity": "critical", **vm, "cluster": "c2", "vm": "two"},
    ]
    with alertmanager_in(tmp_path / "alertmanager") as alertmanager:
        body = json.dumps([{"labels": labels} for labels in sent]).encode()
        request = urllib.request.Request(
            f"{alertmanager.url}/api/v2/alerts", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()
        known = until(lambda: _decided(alertmanager, len(sent)), what="a decision on each alert")
    told = [labels for labels in sent if not known[frozenset(labels.items())]]
    assert told == [sent[0], sent[2], sent[4], sent[5], sent[6]]


def _decided(alertmanager: Server, count: int) -> dict[frozenset, list[str]] | None:
    """Labels of each alert → what keeps it back; None before all are decided."""
    alerts = alertmanager.get("/api/v2/alerts")
    if len(alerts) < count or any(alert["status"]["state"] == "unprocessed" for alert in alerts):
        return None
    return {frozenset(alert["labels"].items()): alert["status"]["inhibitedBy"] for alert in alerts}
