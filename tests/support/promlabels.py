"""Which labels the answer to a query has: what a legend or a table may name."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import promql_parser as promql

from tests.support.promql import OF_PROMETHEUS, PROMETHEUS, exposed, rules

OF_TARGET = {"job", "instance", "cluster"}
OF_OPERATORS = {"mover:success_age_limit_seconds": {"vm"}}
"""What operators record by themselves, as rules/thresholds.yml shows it."""
KEEP = ("topk", "bottomk", "limitk")
"""Aggregations that answer with series of theirs, whole."""
SETS = ("and", "unless")
COMPARISONS = ("==", "!=", "<", ">", "<=", ">=")


def labels_of(expression: str) -> set[str] | None:
    """Of each series of the answer; None: a number, which has a name for nothing."""
    return _of(promql.parse(expression), frozenset())


def named_by(legend: str) -> set[str]:
    """The labels in a legend's ``{{…}}``."""
    return set(re.findall(r"{{\s*(\w+)\s*}}", legend))


@cache
def _records() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for rule in rules(path.name):
            if "record" in rule:
                found.setdefault(rule["record"], []).append(rule)
    return found


@cache
def _any() -> set[str]:
    """Every label that there is: what cannot be told better."""
    return set.union(OF_TARGET, {"alertname", "alertstate", "severity"}, *exposed().values())


def _of(node: Any, within: frozenset[str]) -> set[str] | None:
    """within: rules that are being looked at; what they remember of themselves takes nothing away."""
    match node:
        case promql.NumberLiteral() | promql.StringLiteral():
            return None
        case promql.VectorSelector():
            return _of_series(node.name or "", within)
        case promql.MatrixSelector():
            return _of(node.vector_selector, within)
        case promql.AggregateExpr():
            return _of_aggregation(node, _of(node.expr, within) or set())
        case promql.BinaryExpr():
            return _of_two(node, _of(node.lhs, within), _of(node.rhs, within))
        case promql.Call():
            return _of_call(node, [_of(argument, within) for argument in node.args])
        case _:
            return _of(node.expr, within)


def _of_series(name: str, within: frozenset[str]) -> set[str] | None:
    if name == "ALERTS" or name in within:
        return _any()
    if made := _records().get(name):
        each = [
            (_of(promql.parse(rule["expr"]), within | {name}) or set()) | set(rule.get("labels", {})) for rule in made
        ]
        return set.intersection(*each)
    if name in OF_OPERATORS:
        return OF_OPERATORS[name]
    return (exposed() | OF_PROMETHEUS)[name] | OF_TARGET


def _of_aggregation(node: Any, inner: set[str]) -> set[str]:
    if node.modifier is None:
        return inner if str(node.op) in KEEP else set()
    named = set(node.modifier.labels)
    return inner & named if node.modifier.type == promql.AggModifierType.By else inner - named


def _of_call(node: Any, arguments: list[set[str] | None]) -> set[str] | None:
    if node.func.name == "vector":
        return set()
    given = [labels for labels in arguments if labels is not None]
    if not given:
        return None
    added = {node.args[1].val} if node.func.name in ("label_replace", "label_join") else set()
    return (given[0] | added) - ({"le"} if node.func.name == "histogram_quantile" else set())


def _of_two(node: Any, left: set[str] | None, right: set[str] | None) -> set[str] | None:
    operator, modifier = str(node.op), node.modifier
    if left is None or right is None:
        return left if right is None else right
    if operator == "or":
        return left & right
    if operator in SETS:
        return left
    if modifier is None or modifier.matching is None:
        return left if operator in COMPARISONS and not (modifier and modifier.return_bool) else left & right
    if modifier.card != promql.VectorMatchCardinality.OneToOne:
        many = left if modifier.card == promql.VectorMatchCardinality.ManyToOne else right
        return many | set(modifier.group_labels or [])
    named = set(modifier.matching.labels)
    return left & named if modifier.matching.type == promql.LabelModifierType.Include else left - named
