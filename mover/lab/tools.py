"""The file-system programs that the lab calls; found also where an ordinary user's PATH does not look."""

from __future__ import annotations

import os
import shutil
import subprocess

from mover.errors import LabError

_PACKAGES = {"xfs": "xfsprogs", "ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "debugfs": "e2fsprogs"}


def find(name: str) -> str | None:
    """The program's full path; None when it is not installed."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def call(name: str, *arguments: str) -> tuple[int, str]:
    """Run to the end → (exit code, what it printed). Raises LabError when it is missing."""
    program = find(name)
    if program is None:
        package = next((package for part, package in _PACKAGES.items() if part in name), name)
        raise LabError(f"{name} is not installed", remedy=f"Install {package}.")
    environment = {**os.environ, "LC_ALL": "C", "DEBUGFS_PAGER": "cat", "MKE2FS_CONFIG": "/dev/null"}
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, errors="replace", check=False, env=environment
    )
    return done.returncode, done.stdout + done.stderr


def run(name: str, *arguments: str) -> str:
    """Run and return what it printed. Raises LabError: missing, or it failed."""
    code, said = call(name, *arguments)
    if code:
        words = said.strip().splitlines()[-1] if said.strip() else f"exit code {code}"
        raise LabError(
            f"{name} failed: {words}", remedy="Check the free space of the lab's folder and the tool's version."
        )
    return said
