"""Programs that tests start, and where one of them may be missing."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess

import pytest

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_ELSEWHERE = {"prometheus-alertmanager": "alertmanager"}
"""Debian's name → everybody else's."""
_OLDEST = {"prometheus": (2, 42), "promtool": (2, 42), "prometheus-alertmanager": (0, 25), "amtool": (0, 25)}
"""What deploy/prometheus is written for; EPEL 9 has older ones."""
OWED = os.geteuid() == 0 and shutil.which("apt-get") is not None
"""Root on Debian, as in CI: make test installs them all, and without one of them a test fails."""


def find(name: str) -> str | None:
    """The program's path; None where it is not installed."""
    return shutil.which(name, path=_PATH) or shutil.which(_ELSEWHERE.get(name, name), path=_PATH)


@functools.cache
def too_old(name: str) -> str:
    """What is wrong with the version of a program that is here; nothing: it will do."""
    path, oldest = find(name), _OLDEST.get(name)
    if path is None or oldest is None:
        return ""
    told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"version (\d+)\.(\d+)", told.stdout + told.stderr)
    if found and (int(found[1]), int(found[2])) >= oldest:
        return ""
    return f"{path} is {found[0] if found else 'of an unknown version'}, too old: {oldest[0]}.{oldest[1]} is needed"


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips a test where one is missing or too old, and may be: to others than root, and on another distribution."""
    missing = [name for name in names if find(name) is None]
    reasons = [old for name in names if (old := too_old(name))]
    if missing:
        reasons.append(f"not installed: {', '.join(missing)}; make test as root installs what the distribution has")
    return pytest.mark.skipif(bool(reasons) and not OWED, reason="; ".join(reasons))
