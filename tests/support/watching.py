"""Real Prometheus and Alertmanager over copies of deploy/prometheus, with shorter times; asked over their APIs."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mover.clock import pause, stopwatch
from mover.units import parse_duration
from tests.support import programs
from tests.support.promql import PROMETHEUS
from tests.support.servers import dies_with_us, free_ports

Found = TypeVar("Found")
Labels = dict[str, str]
EVERY = "1s"
_PATIENCE_S = 40.0
_LONG_S = 3600.0


def until(ask: Callable[[], Found], *, what: str, patience_s: float = _PATIENCE_S) -> Found:
    """Ask again and again until the answer is true; gives it."""
    started = stopwatch()
    while stopwatch() - started < patience_s:
        answer = ask()
        if answer:
            return answer
        pause(0.1)
    raise AssertionError(f"waited {patience_s:.0f} s for {what}")


@dataclass(frozen=True)
class Server:
    """A server on loopback that speaks JSON."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **parameters: object) -> Any:
        """The answer to a request; an error of the server is raised with its words."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=20) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}{query}: {error.read().decode(errors='replace')}") from None

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


class Prometheus(Server):
    """See https://prometheus.io/docs/prometheus/latest/querying/api/ for what is asked."""

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """An instant vector, now; a scalar has no labels."""
        data = self.get("/api/v1/query", query=expression)["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(found["metric"], float(found["value"][1])) for found in data["result"]]

    def value(self, expression: str) -> float | None:
        """Of the one series that there is."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def history(self, expression: str, start_s: float, end_s: float) -> list[tuple[Labels, list[tuple[float, float]]]]:
        """A second at a time: labels, (Unix seconds, value)."""
        data = self.get("/api/v1/query_range", query=expression, start=start_s, end=end_s, step=1)["data"]
        return [(found["metric"], [(at, float(value)) for at, value in found["values"]]) for found in data["result"]]

    def firing(self, **labels: str) -> set[str]:
        """Names of the alerts that are on, of those with these labels."""
        alerts = self.get("/api/v1/alerts")["data"]["alerts"]
        return {
            alert["labels"]["alertname"]
            for alert in alerts
            if alert["state"] == "firing" and labels.items() <= alert["labels"].items()
        }

    def targets(self) -> dict[str, tuple[str, str]]:
        """instance → health, the last error's words."""
        found = self.get("/api/v1/targets")["data"]["activeTargets"]
        return {one["labels"]["instance"]: (one["health"], one["lastError"]) for one in found}


@contextmanager
def prometheus_in(
    folder: Path, targets: dict[str, list[str]], *, alertmanager: Server | None = None
) -> Iterator[Prometheus]:
    """Prometheus with the project's own files. targets: cluster → addresses.

    Scrapes and evaluates once a second, and what an alert waits for by the minute it does not wait
    for at all. What waits for longer than an hour waits as long as ever, and so does the alert about
    the machine's load, which is the tests' own.
    """
    shutil.copytree(PROMETHEUS, folder)
    settings = yaml.safe_load((folder / "prometheus.yml").read_text("utf-8"))
    settings["global"] = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    nodes = [{"labels": {"cluster": cluster}, "targets": found} for cluster, found in targets.items()]
    (folder / "targets/nodes.yml").write_text(yaml.safe_dump(nodes))
    told = [f"127.0.0.1:{alertmanager.port}"] if alertmanager else []
    (folder / "targets/alertmanagers.yml").write_text(yaml.safe_dump([{"targets": told}]))
    _shorten(folder / "rules/alerts.yml")
    [port] = free_ports(1)
    words = ["--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.path=data"]
    with _running(["prometheus", *words, "--log.level=warn"], folder, Prometheus(port)) as server:
        yield server


@contextmanager
def alertmanager_in(folder: Path) -> Iterator[Server]:
    """Alertmanager with the project's own file; it has no time to send a mail."""
    folder.mkdir()
    [port] = free_ports(1)
    words = [f"--config.file={PROMETHEUS / 'alertmanager.yml'}", f"--web.listen-address=127.0.0.1:{port}"]
    alone = ["--cluster.listen-address=", "--storage.path=data", "--log.level=warn"]
    with _running(["prometheus-alertmanager", *words, *alone], folder, Server(port)) as server:
        yield server


def _shorten(path: Path) -> None:
    content = yaml.safe_load(path.read_text("utf-8"))
    for group in content["groups"]:
        for rule in group["rules"]:
            if parse_duration(rule.get("for", "0s")) <= _LONG_S and rule["alert"] != "MoverLoopLag":
                rule["for"] = "0s"
    path.write_text(yaml.safe_dump(content))


@contextmanager
def _running(command: list[str], folder: Path, server: Any) -> Iterator[Any]:
    found = programs.find(command[0])
    if found is None:
        raise RuntimeError(f"{command[0]} is not here: as root, make test installs it")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*dies_with_us(), found, *command[1:]], cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: server.is_ready() or process.poll() is not None, what=command[0])
        assert process.poll() is None, (folder / "log").read_text(errors="replace")[-3000:]
        yield server
    finally:
        process.kill()
        process.wait()
