"""deploy/prometheus: valid, of metrics that exist, and every alert tried both ways and explained."""

from __future__ import annotations

import re
import subprocess

import promql_parser
import pytest

from tests.support.programs import needs
from tests.support.promlabels import labels_of
from tests.support.promql import PROMETHEUS, file_of, recorded, rules, selected, unknown

ALERTS = rules("alerts.yml")
RUNBOOK = (PROMETHEUS / "RUNBOOK.md").read_text("utf-8")
RUNBOOK_PATH = "deploy/prometheus/RUNBOOK.md"
CASES = [case for path in sorted((PROMETHEUS / "tests").glob("*.yml")) for case in file_of(path)["tests"]]


def tool(*words: str) -> str:
    """What promtool or amtool says; it must be content."""
    done = subprocess.run(words, cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_of(folder: str) -> list[str]:
    return [str(path.relative_to(PROMETHEUS)) for path in sorted((PROMETHEUS / folder).glob("*.yml"))]


@needs("promtool")
def test_promtool_takes_the_configuration():
    tool("promtool", "check", "config", "prometheus.yml")


@needs("promtool")
def test_promtool_takes_the_rules():
    tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", *names_of("rules"))


@needs("promtool")
@pytest.mark.parametrize("name", names_of("tests"))
def test_the_rules_do_what_they_say(name):
    tool("promtool", "test", "rules", name)


@needs("amtool")
def test_amtool_takes_the_routes():
    tool("amtool", "check-config", "alertmanager.yml")


@needs("amtool")
@pytest.mark.parametrize(("severity", "receiver"), [("critical", "night"), ("warning", "morning"), ("info", "weekly")])
def test_each_severity_has_its_receiver(severity, receiver):
    said = tool("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}")
    assert said.split() == [receiver]


@pytest.mark.parametrize(
    "rule",
    [*ALERTS, *rules("recording.yml"), *rules("thresholds.yml")],
    ids=lambda rule: rule.get("alert") or rule["record"],
)
def test_rules_speak_of_what_there_is(rule):
    assert unknown(rule["expr"]) == []


def test_every_recorded_name_is_used():
    dashboards = "".join(path.read_text("utf-8") for path in (PROMETHEUS.parent / "grafana").rglob("*.json"))
    used = {
        name for name in ("alerts.yml", "recording.yml") for rule in rules(name) for name, _ in selected(rule["expr"])
    }
    assert [name for name in sorted(recorded()) if name not in used and name not in dashboards] == []


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_fires_once_and_once_not(rule):
    name = rule["alert"]
    outcomes = {bool(asked["exp_samples"]) for asked in _asked_of(name)}
    assert outcomes == {True, False}, f"{name} has no test in which it {'fires' if False in outcomes else 'is silent'}"


def _asked_of(alert: str) -> list[dict]:
    """The questions that ask for this alert by name, or with others, and expect it or nothing."""
    asked = [asked for case in CASES for asked in case.get("promql_expr_test", [])]
    return [
        one
        for one in asked
        if _is_asked(one["expr"], alert)
        and (not one["exp_samples"] or any(f'alertname="{alert}"' in sample["labels"] for sample in one["exp_samples"]))
    ]


def _is_asked(expression: str, alert: str) -> bool:
    found = re.search(r'ALERTS\{alertname=~?"([^"]*)"', expression)
    return found is not None and alert in found[1].split("|")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_is_graded_said_and_explained(rule):
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["labels"]["scope"] in ("node", "vm", "cluster")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_PATH}#{rule['alert'].lower()}"
    section = re.search(rf"^## {rule['alert']}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section, "no section in the runbook"
    assert section[1].startswith(f"*{rule['labels']['severity']}"), "the runbook grades it otherwise"
    for word in ("**Look", "**Leave it:**"):
        assert word in section[1]
    assert "**Do:**" in section[1] or "**Look, do:**" in section[1]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_names_labels_that_it_has(rule):
    """Prometheus writes nothing in the place of a label that an aggregation took away."""
    texts = "".join(rule["annotations"].values())
    named = set(re.findall(r"\$labels\.(\w+)", texts))
    assert named <= (labels_of(rule["expr"]) or set()) | rule["labels"].keys()


def test_the_runbook_explains_no_alert_that_is_gone():
    assert set(re.findall(r"^## (Mover\w+)", RUNBOOK, re.MULTILINE)) == {rule["alert"] for rule in ALERTS}


def test_links_within_the_runbook_lead_somewhere():
    headings = {heading.lower() for heading in re.findall(r"^## (\w+)", RUNBOOK, re.MULTILINE)}
    linked = re.findall(r"\]\(#(\w+)\)", RUNBOOK) + re.findall(r"RUNBOOK\.md#(\w+)", _texts())
    assert len(linked) > len(ALERTS)
    assert set(linked) <= headings


def _texts() -> str:
    return "".join(path.read_text("utf-8") for path in PROMETHEUS.rglob("*") if path.suffix in (".md", ".yml"))


def test_inhibitions_name_alerts_that_exist():
    known = {rule["alert"] for rule in ALERTS}
    matchers = [
        matcher
        for inhibition in file_of(PROMETHEUS / "alertmanager.yml")["inhibit_rules"]
        for matcher in inhibition["source_matchers"] + inhibition["target_matchers"]
    ]
    named = {name for matcher in matchers for name in re.findall(r"Mover\w+", matcher)}
    assert named
    assert named <= known


def test_the_readme_counts_right():
    assert f"{len(ALERTS)} alerts" in (PROMETHEUS / "README.md").read_text("utf-8")


def test_every_selector_is_understood():
    """The library that reads expressions must see into all that the rules are made of."""
    expression = 'sum by (a) (rate(x{b="c"}[5m] offset 5m)) / on () group_left () (y or max_over_time(z[1d:1m])) > -w'
    assert [name for name, _ in selected(expression)] == ["x", "y", "z", "w"]
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("rate(")
