"""Every shell script of the repository, through shellcheck."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.programs import needs
from tests.support.source import ROOT

SKIPPED = {".git", ".venv", "node_modules", "build"}


def scripts() -> list[Path]:
    """By name, and by their first line where the name does not tell."""
    files = [path for path in ROOT.rglob("*") if path.is_file() and not SKIPPED & set(path.relative_to(ROOT).parts)]
    named = [path for path in files if path.suffix in (".sh", "")]
    return sorted(path for path in named if path.suffix == ".sh" or _is_script(path))


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(64).rstrip().endswith((b"/sh", b"/bash", b"env bash"))


def test_the_scripts_are_found():
    assert {"deploy/tools.sh", ".ci/run"} <= {str(path.relative_to(ROOT)) for path in scripts()}


@needs("shellcheck")
def test_shellcheck_finds_nothing_in_any_script():
    done = subprocess.run(["shellcheck", *scripts()], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@needs("shellcheck")
def test_the_check_can_fail(tmp_path: Path):
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/bin/sh\nrm $1/*\n")
    assert subprocess.run(["shellcheck", bad], capture_output=True, check=False).returncode != 0
