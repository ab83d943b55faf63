"""Programs that tests start, and where one of them may be missing."""

from __future__ import annotations

import os
import shutil

import pytest

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_ELSEWHERE = {"prometheus-alertmanager": "alertmanager"}
"""Debian's name → everybody else's."""
OWED = os.geteuid() == 0 and shutil.which("apt-get") is not None
"""Root on Debian, as in CI: make test installs them all, and without one of them a test fails."""


def find(name: str) -> str | None:
    """The program's path; None where it is not installed."""
    return shutil.which(name, path=_PATH) or shutil.which(_ELSEWHERE.get(name, name), path=_PATH)


def needs(*names: str) -> pytest.MarkDecorator:
    """Skips a test where one is missing and may be: to others than root, and where the distribution lacks it."""
    missing = [name for name in names if find(name) is None]
    reason = f"not installed: {', '.join(missing)}; make test as root installs what the distribution has"
    return pytest.mark.skipif(bool(missing) and not OWED, reason=reason)
