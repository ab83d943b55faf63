"""Every shell script of the repository, through shellcheck."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("builder", "buildahs_own"), [("buildah", True), ("podman --root /r", True), ("docker", False)], ids=str
)
def test_each_builder_is_given_the_options_that_it_knows(tmp_path: Path, builder: str, buildahs_own: bool):
    """Docker has neither --format nor --ignorefile: it takes the ignore file that is named as the Containerfile."""
    program = tmp_path / builder.split()[0]
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [ROOT / "deploy/container/build.sh", "localhost/base", "localhost/mover:new"],
        env={**os.environ, "BUILDER": builder, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    words = done.stdout.split()
    assert "build" in words
    assert words[-3:] == ["--tag", "localhost/mover:new", "."]
    assert {"BASE=localhost/base", "deploy/container/Containerfile"} <= set(words)
    ignored = "deploy/container/Containerfile.dockerignore"
    assert (ROOT / ignored).is_file()
    own = {"--format", "--layers=false", "--ignorefile", ignored}
    assert own & set(words) == (own if buildahs_own else set())
