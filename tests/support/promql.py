"""What the rules and dashboards ask of Prometheus, and whether anybody has it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from mover import metrics
from tests.support.source import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
GRAFANA = ROOT / "deploy/grafana"
OF_PROMETHEUS = {"up": {"job", "instance"}}
"""What Prometheus itself says of each target."""


def selected(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Every selector of an expression: metric, labels that its matchers name."""
    for node in _walk(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name or "", {matcher.name for matcher in node.matchers.matchers}


def _walk(node: Any) -> Iterator[Any]:
    yield node
    parts = ("lhs", "rhs", "expr", "param", "vector_selector")
    inner = [getattr(node, part, None) for part in parts] + list(getattr(node, "args", None) or [])
    for part in inner:
        if part is not None:
            yield from _walk(part)


def exposed() -> dict[str, set[str]]:
    """Every series that a node may expose: name → its labels."""
    found: dict[str, set[str]] = {}
    for instrument in vars(metrics).values():
        if not hasattr(instrument, "_labelnames"):
            continue
        name, labels = instrument._name, set(instrument._labelnames)
        match instrument._type:
            case "counter":
                found[f"{name}_total"] = labels
            case "histogram":
                found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
            case _:
                found[name] = labels
    for family in metrics.PROCESS.collect():
        found[f"{family.name}_total" if family.type == "counter" else family.name] = set()
    return found


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a file under rules/, in order."""
    groups = yaml.safe_load((PROMETHEUS / "rules" / name).read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def recorded() -> set[str]:
    """Names that recording rules make."""
    files = [path.name for path in sorted((PROMETHEUS / "rules").glob("*.yml"))]
    return {rule["record"] for name in files for rule in rules(name) if "record" in rule}


def unknown(expression: str) -> list[str]:
    """What an expression asks for that no node, no rule and no Prometheus has."""
    series = exposed()
    made = recorded() | {"mover:success_age_limit_seconds", "ALERTS"}  # the first is the operator's to record
    of_target = {"job", "instance", "cluster"}
    problems = []
    for name, labels in selected(expression):
        known = series.get(name) if name in series else OF_PROMETHEUS.get(name)
        if known is not None:
            problems += [f"{name}{{{label}}}" for label in sorted(labels - known - of_target)]
        elif name not in made:
            problems.append(name)
    return problems


def file_of(path: Path) -> Any:
    """A YAML file's content."""
    return yaml.safe_load(path.read_text("utf-8"))


@dataclass(frozen=True)
class Query:
    """One query of one panel of a dashboard."""

    board: str
    panel: str
    ref: str
    text: str
    kind: str
    """The panel's type, as Grafana calls it."""
    unit: str
    legend: str

    def __str__(self) -> str:
        return f"{self.board}: {self.panel} {self.ref}"

    def expression(self, *, rate: str, **chosen: str) -> str:
        """As Grafana would send it. rate: what it makes of $__rate_interval; chosen: variables, otherwise all."""
        text = self.text.replace("$__rate_interval", rate)
        text = re.sub(r"\$(\w+)", lambda found: chosen.get(found[1], ".*"), text)
        assert "$" not in text, text
        return text

    def selected(self) -> list[tuple[str, set[str]]]:
        """The series that it asks for; parts of a histogram under the histogram's name."""
        parts = re.compile(r"_(bucket|sum|count)$")
        whole = Query.instruments()
        asked = selected(self.expression(rate="1m"))
        return [(name if name in whole else parts.sub("", name), labels) for name, labels in asked]

    @staticmethod
    def instruments() -> set[str]:
        """Names of all instruments; histograms without their parts."""
        return {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed()}


def panels() -> list[tuple[str, dict[str, Any]]]:
    """Every panel of every dashboard, with the dashboard's name; without the headings."""
    boards = [
        (path.stem, json.loads(path.read_text("utf-8"))) for path in sorted((GRAFANA / "dashboards").glob("*.json"))
    ]
    return [(name, panel) for name, board in boards for panel in board["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(
            name,
            panel["title"],
            target["refId"],
            target["expr"],
            panel["type"],
            panel["fieldConfig"]["defaults"]["unit"],
            target["legendFormat"],
        )
        for name, panel in panels()
        for target in panel["targets"]
    ]
