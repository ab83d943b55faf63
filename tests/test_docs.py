"""Documents are part of the change: what the code has, they name."""

from __future__ import annotations

import re
import subprocess
import sys

import yaml

from mover import metrics
from mover.settings import setting_names
from tests.support.source import ROOT, modules


def test_the_reference_is_written_from_this_code():
    done = subprocess.run([sys.executable, ROOT / "deploy/reference.py", "--check"], check=False, timeout=60)
    assert done.returncode == 0, "run: make reference"


def test_every_setting_is_read_somewhere():
    text = "\n".join(m.path.read_text("utf-8") for m in modules() if m.name not in ("mover.config", "mover.settings"))
    unread = [name for name in setting_names() if not re.search(rf"\b{name.split('.')[-1]}\b", text)]
    assert unread == []


def test_every_instrument_is_fed_somewhere():
    text = "\n".join(m.path.read_text("utf-8") for m in modules() if m.name != "mover.metrics")
    instruments = [name for name, value in vars(metrics).items() if hasattr(value, "_labelnames")]
    assert len(instruments) > 20
    assert [name for name in instruments if not re.search(rf"\b{name}\b", text)] == []


def test_the_table_of_metrics_names_each_alert_beside_what_it_reads():
    table = (ROOT / "deploy/REFERENCE.md").read_text("utf-8")
    rows = {row.split("`")[1]: row for row in table.splitlines() if re.match(r"\| `(mover|process)_", row)}
    text = (ROOT / "deploy/prometheus/rules/alerts.yml").read_text("utf-8")
    alerts = {rule["alert"]: rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}
    wrong = [
        f"{alert}: {name}"
        for alert, expression in alerts.items()
        for name in re.findall(r"\b(?:mover|process)_[a-z0-9_]+\b", expression)
        if f"`{alert}`" not in rows.get(name, "")
    ]
    assert len(alerts) > 15
    assert wrong == []
    unknown = set(re.findall(r"`(Mover\w+)`", "\n".join(rows.values()))) - set(alerts)
    assert unknown == set()


def test_documents_name_no_machine_and_no_registry():
    forbidden = re.compile(r"/wor[k]/|/far[m]|py[p]i\.org|python[h]osted|deb\.[d]ebian|npm[j]s\.")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for pattern in ("*.md", "*.toml", "Makefile", "deploy/**/*", "mover/**/*.py", "tests/**/*.py", "bench/**/*")
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix not in (".pyc", ".png")
        if (match := forbidden.search(path.read_text("utf-8", errors="replace")))
    ]
    assert found == []


def test_links_of_documents_lead_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "mover").rglob("*.md"), *(ROOT / "bench").glob("*.md")]
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []
