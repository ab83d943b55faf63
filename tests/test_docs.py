"""Documents are part of the change: what the code has, they name."""

from __future__ import annotations

import re
import subprocess
import sys

from mover import metrics
from mover.settings import setting_names
from tests.support.source import ROOT, modules


def test_the_reference_is_written_from_this_code():
    done = subprocess.run([sys.executable, ROOT / "deploy/reference.py", "--check"], check=False, timeout=60)
    assert done.returncode == 0, "run: make reference"


def test_every_setting_is_read_somewhere():
    text = "\n".join(m.path.read_text("utf-8") for m in modules() if m.name not in ("mover.config", "mover.settings"))
    unread = [name for name, _ in setting_names() if not re.search(rf"\b{name.split('.')[-1]}\b", text)]
    assert unread == []


def test_every_instrument_is_fed_somewhere():
    text = "\n".join(m.path.read_text("utf-8") for m in modules() if m.name != "mover.metrics")
    instruments = [name for name, value in vars(metrics).items() if hasattr(value, "_labelnames")]
    assert len(instruments) > 20
    assert [name for name in instruments if not re.search(rf"\b{name}\b", text)] == []


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
