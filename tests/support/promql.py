"""What PromQL expressions speak of: the names of metrics, and the labels that they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from mover import metrics
from tests.support.source import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
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
