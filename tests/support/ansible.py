"""Ansible's programs, started as an operator does, and the least that the role asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.source import ROOT

FOLDER = ROOT / "deploy/ansible"
PROGRAMS = os.pathsep.join([str(Path(sys.executable).parent.parent / "ansible/bin"), os.environ["PATH"]])
ANSIBLE = pytest.mark.skipif(
    shutil.which("ansible-playbook", path=PROGRAMS) is None, reason="ansible-core is not installed: make test"
)
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="the role asks this machine as root")

SETTINGS: dict[str, Any] = {
    "prism": {"url": "https://192.0.2.1:9440", "username": "backup"},
    "repository": {"url": "/backup"},
}


def start(
    program: str, *arguments: str | Path, home: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One of Ansible's programs, with nothing of this user's own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | (environment or {})
    environment = {**kept, "PATH": PROGRAMS, "ANSIBLE_HOME": str(home / "ansible"), "ANSIBLE_NOCOLOR": "1"}
    environment |= {"ANSIBLE_LOCAL_TEMP": str(home / "ansible/tmp"), "NO_COLOR": "1"}
    found = shutil.which(program, path=PROGRAMS)
    assert found
    return subprocess.run(
        [found, *arguments], cwd=FOLDER, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
